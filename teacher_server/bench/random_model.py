"""The model of the benchmarks when none is given: random weights, a tokenizer of numbered words."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HEAD_SIZE = 64


def random_model_config(hidden_size: int = 512) -> LlamaConfig:
    """A Llama of 4 layers, whose head is small beside the layers, as in models of use.

    Args:
        hidden_size: a multiple of 128.
    """
    return LlamaConfig(
        vocab_size=4096,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=4,
        num_attention_heads=hidden_size // HEAD_SIZE,
        num_key_value_heads=hidden_size // HEAD_SIZE // 2,
        head_dim=HEAD_SIZE,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )


def write_random_model(folder: Path, hidden_size: int = 512) -> Path:
    """Saves a float32 model of `random_model_config` and its tokenizer in the transformers format.

    Args:
        folder: where to.
        hidden_size: a multiple of 128.
    """
    config = random_model_config(hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    words = {f"w{index}": index for index in range(config.vocab_size)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0").save_pretrained(folder)
    return folder
