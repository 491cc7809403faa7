"""Configurations of tiny models of several families, with weights drawn wide."""

from typing import Any

from transformers import (
    FalconH1Config,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from tests.tiny_models import WEIGHT_SPREAD

SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": WEIGHT_SPREAD,
    "pad_token_id": 0,
}
LLAMA = LlamaConfig(**SIZE)
ATTENTION: dict[str, PreTrainedConfig] = {
    "llama, tied": LlamaConfig(**SIZE, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SIZE, head_dim=8),
    "mistral, sliding": MistralConfig(**SIZE, sliding_window=4),
    "gemma3, both, capped": Gemma3TextConfig(
        **SIZE,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        final_logit_softcapping=5.0,
    ),
}
"""Models that keep packed rows apart."""

MIXING: dict[str, PreTrainedConfig] = {
    "convolutions": Lfm2Config(
        **SIZE, layer_types=["conv", "full_attention"], block_multiple_of=16
    ),
    "state space": MambaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.25
    ),
    "hybrid": FalconH1Config(
        **SIZE, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8
    ),
    "positions from the mask": OPTConfig(
        vocab_size=64,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        init_std=0.25,
    ),
}
"""Models that do not."""
