"""The engines that tests start: one a row, because each takes a quarter of a minute."""

from dataclasses import dataclass, field
from typing import Any

BLOCK = 32
"""Tokens of a block of the prefix cache on a CPU."""
TOKEN_BYTES = {"llama": 1024, "wide-llama": 2048, "smollm2": 46_080}
"""What a token takes in the KV cache in float32."""
CROWDED = {
    # Room for 12 blocks, where the longest sequence takes 8; prompts take turns in pieces of a
    # block. So requests lose their places in the cache halfway and go on later.
    "long_prefill_token_threshold": BLOCK,
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
    environment: dict[str, str] = field(default_factory=dict)
    """Variables that vLLM reads when it starts."""
    tolerances: tuple[float, float] = (1e-3, 1e-5)
    """Largest difference to the transformers engine in float32, and to vLLM without its cache."""
    gpus: int = 0
    """How many it needs."""


def _crowded(model: str) -> dict[str, Any]:
    return CROWDED | {"kv_cache_memory_bytes": 12 * BLOCK * TOKEN_BYTES[model]}


def _setup(model: str, engine_args: dict[str, Any] | None = None, **options: Any) -> Setup:
    return Setup(model, {"engine_args": engine_args or {}, **options})


PUBLIC = {"scoring_path": "prompt-log-probs"}
SETUPS = {
    "llama": _setup("llama"),
    "untied-llama, whole prompts": _setup("untied-llama", {"enable_chunked_prefill": False}),
    "qwen3, chunked": _setup("qwen3", CHUNKED),
    "gemma2, chunked": _setup("gemma2", CHUNKED),
    "crowded": _setup("llama", _crowded("llama")),
    "crowded, uncapped": _setup("llama", _crowded("llama"), capped_hits=False),
    "public": _setup("llama", CHUNKED, **PUBLIC),
    "public, crowded, uncapped": _setup("llama", _crowded("llama"), capped_hits=False, **PUBLIC),
}
CAPPED = [name for name, setup in SETUPS.items() if setup.options.get("capped_hits", True)]
UNCAPPED = [name for name in SETUPS if name not in CAPPED]
"""Second requests happen there."""
SMOLLM2 = {
    "smollm2, whole prompts": _setup(
        "smollm2", {"enable_chunked_prefill": False}, max_model_len=255, max_top_k=16
    ),
    "smollm2, crowded": _setup("smollm2", _crowded("smollm2"), max_model_len=255, max_top_k=16),
}
"""A real model, of which a CPU scores some hundred tokens a second."""
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


def _parallel(**engine_args: int) -> Setup:
    return Setup("llama", {"engine_args": {**CHUNKED, **engine_args}}, takes_weights=True)


PARALLEL = {
    "two ranks": _parallel(tensor_parallel_size=2),
    "two replicas": _parallel(data_parallel_size=2),
}
"""Workers in several processes, which are to agree on the scores and on the weights."""

_FIRST_RUNNER = {"VLLM_USE_V2_MODEL_RUNNER": "0"}
_ON_GPU: dict[str, Any] = {"kv_cache_memory_bytes": 2**28, "block_size": BLOCK}
_CROWDED_ON_GPU = {**_crowded("wide-llama"), "block_size": BLOCK}


def _on_gpu(
    engine_args: dict[str, Any] | None = None,
    *,
    model: str = "wide-llama",
    tolerances: tuple[float, float] = (1e-3, 1e-4),
    gpus: int = 1,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> Setup:
    options["engine_args"] = {**_ON_GPU, **(engine_args or {})}
    return Setup(model, options, tolerances=tolerances, gpus=gpus, environment=environment or {})


GPU_SETUPS = {
    # vLLM's second runner, with CUDA graphs.
    "gpu": _on_gpu(scoring_path="token-ids"),
    "gpu, no graphs": _on_gpu({"enforce_eager": True}, scoring_path="token-ids"),
    "gpu, crowded": _on_gpu(_CROWDED_ON_GPU, scoring_path="token-ids"),
    "gpu, crowded, uncapped": _on_gpu(_CROWDED_ON_GPU, scoring_path="token-ids", capped_hits=False),
    "gpu, public": _on_gpu(CHUNKED, **PUBLIC),
    "gpu, first runner": _on_gpu(scoring_path="response-rows", environment=_FIRST_RUNNER),
    "gpu, first runner, public": _on_gpu(CHUNKED, environment=_FIRST_RUNNER, **PUBLIC),
    "gpu, smollm2": _on_gpu(model="smollm2", max_model_len=512, max_top_k=16),
    "gpu, bfloat16": _on_gpu(dtype="bfloat16", tolerances=(0.5, 0.1)),
    "gpu, fp8": _on_gpu(
        {"quantization": "fp8"},
        model="smollm2",
        max_model_len=512,
        max_top_k=16,
        dtype="bfloat16",
        tolerances=(4.0, 0.2),
    ),
    "gpu, tensor parallel": _on_gpu({"tensor_parallel_size": 2}, gpus=2),
    "gpu, pipeline parallel": _on_gpu({"pipeline_parallel_size": 2}, gpus=2),
    "gpu, data parallel": _on_gpu({"data_parallel_size": 2}, gpus=2),
}
"""What only GPUs can show; see docs/gpu-checklist.md."""
ALL_SETUPS = SETUPS | SMOLLM2 | MORTAL | WITH_WEIGHTS | PARALLEL | GPU_SETUPS
