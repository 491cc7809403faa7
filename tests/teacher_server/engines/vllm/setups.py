"""The engines that tests start: one a row, because each takes a quarter of a minute."""

from dataclasses import dataclass, field
from typing import Any

TOKEN_BYTES = 1024
"""Keys and values of one token of the tiny Llama."""
CROWDED = {
    # Room for 12 blocks of 32 tokens, where the longest sequence takes 8; prompts take turns in
    # pieces of a block. So requests lose their places in the cache halfway and go on later.
    "kv_cache_memory_bytes": 12 * 32 * TOKEN_BYTES,
    "long_prefill_token_threshold": 32,
    "scheduler_reserve_full_isl": False,
    "max_num_seqs": 8,
}
CHUNKED = {"max_num_batched_tokens": 48, "max_num_seqs": 8}


@dataclass(frozen=True)
class Setup:
    """A model and the engine's options."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    takes_weights: bool = False
    """Whether jobs may name weights from the models' folder."""


def _setup(model: str, engine_args: dict[str, Any] | None = None, **options: Any) -> Setup:
    return Setup(model, {"engine_args": engine_args or {}, **options})


PUBLIC = {"scoring_path": "prompt-log-probs"}
SETUPS = {
    "llama": _setup("llama"),
    "untied-llama, whole prompts": _setup("untied-llama", {"enable_chunked_prefill": False}),
    "qwen3, chunked": _setup("qwen3", CHUNKED),
    "gemma2, chunked": _setup("gemma2", CHUNKED),
    "smollm2": _setup("smollm2", max_model_len=512, max_top_k=16),
    "crowded": _setup("llama", CROWDED),
    "crowded, uncapped": _setup("llama", CROWDED, capped_hits=False),
    "public": _setup("llama", CHUNKED, **PUBLIC),
    "public, crowded, uncapped": _setup("llama", CROWDED, capped_hits=False, **PUBLIC),
}
CAPPED = [name for name, setup in SETUPS.items() if setup.options.get("capped_hits", True)]
UNCAPPED = [name for name in SETUPS if name not in CAPPED]
"""Second requests happen there."""
MORTAL = {"mortal": Setup("llama")}
"""For a test that kills it."""
WITH_WEIGHTS = {
    "llama, weights": Setup("llama", takes_weights=True),
    "qwen3, weights": Setup(
        "tied-qwen3",
        {"engine_args": {"lora_target_modules": ["q_proj", "gate_proj", "up_proj"], **CHUNKED}},
        takes_weights=True,
    ),
}
"""For jobs that name weights; both models tie their head to the embeddings."""
