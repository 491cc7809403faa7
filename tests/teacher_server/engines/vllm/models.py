"""Small models that vLLM can run on a CPU: heads of 32 elements or more."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Gemma2Config

from counterhint.errors import InputError
from student_trainer.packaged_models import convert_gguf, find_smollm2
from tests.tiny_models import (
    WEIGHT_SPREAD,
    write_model,
    write_tiny_llama,
    write_tiny_qwen3,
    write_tokenizer,
)

WINDOW = 64


def _llama(folder: Path) -> None:
    write_tiny_llama(folder, hidden_size=128)


def _wide_llama(folder: Path) -> None:
    """With heads of 64 elements, for kernels of GPUs."""
    write_tiny_llama(folder, hidden_size=256)


def _untied_llama(folder: Path) -> None:
    write_tiny_llama(folder, hidden_size=128, tie_word_embeddings=False)


def _tied_qwen3(folder: Path) -> None:
    write_tiny_qwen3(folder, tie_word_embeddings=True)


def _gemma2(folder: Path) -> None:
    """Every second layer sees `WINDOW` tokens only, so layers differ in what they cache."""
    write_tokenizer(folder)
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=WINDOW,
        max_position_embeddings=256,
        initializer_range=WEIGHT_SPREAD,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    write_model(folder, config)


def _smollm2(folder: Path) -> None:
    """SmolLM2-135M from the package that carries it; half a minute."""
    try:
        source = find_smollm2()
    except InputError as error:
        pytest.skip(str(error))
    convert_gguf(source, folder)


MODELS: dict[str, Callable[[Path], object]] = {
    "llama": _llama,
    "wide-llama": _wide_llama,
    "untied-llama": _untied_llama,
    "qwen3": write_tiny_qwen3,
    "tied-qwen3": _tied_qwen3,
    "gemma2": _gemma2,
    "smollm2": _smollm2,
}
