"""The model of the benchmarks when none is given: random weights, a tokenizer of numbered words."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONFIG = LlamaConfig(
    vocab_size=4096,
    hidden_size=512,
    intermediate_size=1536,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    max_position_embeddings=4096,
    tie_word_embeddings=True,
    initializer_range=0.1,
)
"""A head small beside the layers, as in models of use."""


def write_random_model(folder: Path) -> Path:
    """Saves a float32 Llama of `CONFIG` and its tokenizer in the transformers format."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(CONFIG).save_pretrained(folder)
    words = {f"w{index}": index for index in range(CONFIG.vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0").save_pretrained(folder)
    return folder
