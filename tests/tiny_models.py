"""Tiny random models with a tokenizer, in the ordinary transformers folder format.

Their weights are drawn wide, so that distributions are far from uniform and a wrong position, mask
or cache row shows in the log probs.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

WEIGHT_SPREAD = 0.25
"""Standard deviation of the random weights."""


def write_tokenizer(folder: Path, vocab_size: int = 64) -> PreTrainedTokenizerFast:
    """Saves a tokenizer of the words `<pad>`, `<bos>`, `<eos>`, `w3`, `w4` …, split at spaces."""
    special = ["<pad>", "<bos>", "<eos>"]
    words = special + [f"w{index}" for index in range(len(special), vocab_size)]
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_model(folder: Path, config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Saves a randomly initialised float32 causal language model of a configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return model.eval()


def write_tiny_llama(
    folder: Path, seed: int = 0, vocab_size: int = 64, **config: Any
) -> PreTrainedModel:
    """Saves a Llama of two layers with grouped-query attention and tied embeddings.

    Args:
        folder: where model and tokenizer go.
        seed: of the random weights.
        vocab_size: of model and tokenizer.
        config: other fields of `LlamaConfig`.
    """
    write_tokenizer(folder, vocab_size)
    fields: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "initializer_range": WEIGHT_SPREAD,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return write_model(folder, LlamaConfig(vocab_size=vocab_size, **(fields | config)), seed)


def write_tiny_qwen3(
    folder: Path, seed: int = 0, vocab_size: int = 64, tie_word_embeddings: bool = False
) -> PreTrainedModel:
    """Saves a Qwen3 of two layers: norms of queries and keys, and a head of its own by default.

    Its attention heads have 32 elements, the fewest that vLLM takes on a CPU.
    """
    write_tokenizer(folder, vocab_size)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=tie_word_embeddings,
        initializer_range=WEIGHT_SPREAD,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return write_model(folder, config, seed)
