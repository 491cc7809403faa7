"""Tokenizers for tests: small ones made on the spot, and real ones that a package carries."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHAT = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}<|assistant|>\n"


@cache
def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of the single bytes and a few merges; it can write every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "o"), ("e", "r"), ("o", "n"), ("e", "n"), ("v", "en"), ("Ã", "©")]
    words = [*alphabet, *(first + second for first, second in merges), "<|end|>"]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHAT
    return tokenizer
