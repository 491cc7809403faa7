"""How the vLLM engine is set up: our options, and vLLM's engine arguments by their own names."""

import dataclasses
import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import ValidationError

from counterhint.errors import InputError
from teacher_server.adapters import adaptable_layers
from teacher_server.engines.model_folder import model_outline
from teacher_server.engines.vllm.requests import (
    PATHS,
    PromptLogProbsPath,
    ResponseRowsPath,
    ScoringPath,
    TokenIdsPath,
)

if TYPE_CHECKING:
    from vllm.config import VllmConfig

log = logging.getLogger(__name__)

PathName = Literal["auto", "response-rows", "token-ids", "prompt-log-probs"]

PROMPT_LOGITS_BYTES = 2**32
"""Most memory that the log probs of whole prompts may take in one step: vLLM's first runner holds
three float32 arrays of `[tokens, vocabulary]` then, which its own memory profile does not see."""


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How the engine is set up."""

    model: Path
    """A model folder in the transformers format, with its tokenizer."""
    model_id: str | None = None
    """The model's name; the folder's name when None."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; the head is float32 in any case, and so are all log probs."""
    max_model_len: int | None = None
    """Longest context + response; the model's own limit − 1 when None."""
    max_top_k: int = 128
    """Largest top-k; never more than the vocabulary."""
    max_job_tokens: int = 1_048_576
    """Largest job in computed tokens."""
    weights_roots: Sequence[Path] = ()
    """Folders that named weights may come from."""
    max_loaded_weights: int = 2
    """Adapters that are held at once."""
    scoring_path: PathName = "auto"
    """How vLLM is asked for scores; auto takes the best that this release and device have."""
    capped_hits: bool = True
    """Whether prefix hits end where scoring starts; without it, pairs whose rows a hit swallowed
    are sent a second time."""
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """vLLM's engine arguments by their names in Python."""


_OURS: dict[str, Any] = {
    "worker_extension_cls": "teacher_server.engines.vllm.worker.TeacherWorker",
    # Token ids in, token ids out.
    "skip_tokenizer_init": True,
    "generation_config": "vllm",
    "logprobs_mode": "raw_logprobs",
    "enable_prefix_caching": True,
    # vLLM's own metrics, which appear beside ours.
    "disable_log_stats": False,
    "trust_remote_code": False,
    # It leaves out the very rows that are scored.
    "kv_sharing_fast_prefill": False,
}
_BY_OPTION = {
    "model": "--model",
    "tokenizer": "--model",
    "dtype": "--dtype",
    "max_model_len": "--max-model-len",
    "max_logprobs": "--max-top-k",
    "scheduler_cls": "--scoring-path",
    "served_model_name": "--model-id",
    "max_loras": "--max-loaded-weights",
    "max_cpu_loras": "--max-loaded-weights",
}
"""Arguments that an option of ours decides."""


def parse_engine_args(words: Sequence[str]) -> dict[str, Any]:
    """Engine arguments from `name=value` words of a command line, values in YAML.

    Raises:
        InputError: a word is none.
    """
    arguments = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise InputError(
                f"--engine-arg {word}: give name=value, for example tensor_parallel_size=2"
            )
        try:
            arguments[name.replace("-", "_")] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--engine-arg {word}: the value is not YAML: {error}") from error
    return arguments


def engine_config(options: VllmOptions) -> tuple["VllmConfig", type[ScoringPath]]:
    """vLLM's configuration, and how it will be asked for scores.

    Raises:
        InputError: vLLM is not installed, does not take an argument or the model, or lacks the
            scoring path that was asked for.
    """
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "--engine vllm: vllm is not installed here: pip install 'counterhint[teacher-vllm]' in "
            "an environment of its own, or use --engine transformers"
        )
    # Read by vLLM when it is imported or starts its processes. Spawned, they inherit no threads.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # What it does well, it tells in hundreds of lines, and on stdout, where our own output goes.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    arguments = _engine_arguments(options)
    config = _create(arguments)
    if config.lora_config is not None and not _takes_adapters(config):
        architecture = config.model_config.architecture
        if options.engine_args.get("enable_lora"):
            raise InputError(
                f"--engine-arg enable_lora=true: vLLM has no adapters for {architecture}; remove it"
            )
        log.info("no adapters: vLLM has none for %s", architecture)
        arguments = _without_adapters(arguments)
        config = _create(arguments)
    _check_heads(config)
    path = _choose_path(options.scoring_path, config)
    if path is PromptLogProbsPath and not config.use_v2_model_runner:
        vocab_size = config.model_config.get_vocab_size()
        most = max(1, PROMPT_LOGITS_BYTES // (3 * 4 * vocab_size))
        given = options.engine_args.get("max_num_batched_tokens")
        if given is not None and given > most:
            raise InputError(
                f"--engine-arg max_num_batched_tokens={given}: the log probs of so many prompt "
                f"tokens over {vocab_size} ids take {given * 12 * vocab_size} bytes, which vLLM "
                f"does not plan for; give at most {most}, or another --scoring-path"
            )
        if given is None and config.scheduler_config.max_num_batched_tokens > most:
            config = _create({**arguments, "max_num_batched_tokens": most})
    if options.capped_hits and _hits_can_be_capped():
        asynchronous = config.scheduler_config.async_scheduling
        config.scheduler_config.scheduler_cls = (
            "teacher_server.engines.vllm.scheduler.Capped"
            f"{'Async' if asynchronous else ''}Scheduler"
        )
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and config.parallel_config.distributed_executor_backend == "mp":
        executor = "teacher_server.engines.vllm.executor.SleepingExecutor"
        config.parallel_config.distributed_executor_backend = executor
    return config, path


def _engine_arguments(options: VllmOptions) -> dict[str, Any]:
    from vllm import __version__
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    known = {argument.name for argument in dataclasses.fields(AsyncEngineArgs)}
    for name, value in options.engine_args.items():
        if name in _BY_OPTION:
            raise InputError(f"--engine-arg {name}={value}: give {_BY_OPTION[name]} instead")
        if name in _OURS:
            raise InputError(
                f"--engine-arg {name}={value}: scoring needs {name}={_OURS[name]}; remove it"
            )
        if name not in known:
            raise InputError(
                f"--engine-arg {name}={value}: vLLM {__version__} has no such engine argument; "
                "give it by its name in Python, tensor_parallel_size say"
            )
    defaults: dict[str, Any] = {"max_num_batched_tokens": 8192}
    if current_platform.is_cpu():
        if (stages := options.engine_args.get("pipeline_parallel_size", 1)) != 1:
            raise InputError(
                f"--engine-arg pipeline_parallel_size={stages}: on a CPU vLLM's second stage fails "
                "at the first token; give tensor_parallel_size or data_parallel_size instead"
            )
        # The smallest blocks that vLLM's kernels take there: a hit ends on a whole block.
        defaults |= {"enforce_eager": True, "block_size": 32, "max_num_batched_tokens": 4096}
        if not {"gpu_memory_utilization", "kv_cache_memory_bytes"} & options.engine_args.keys():
            defaults["kv_cache_memory_bytes"] = 2**30
    defaults |= _adapter_arguments(options)
    given = options.engine_args.get("hf_overrides", {})
    if not isinstance(given, Mapping):
        raise InputError(
            f"--engine-arg hf_overrides={given}: give fields of config.json, for example "
            "hf_overrides={tie_word_embeddings: true}"
        )
    if (head := given.get("head_dtype", "float32")) != "float32":
        raise InputError(
            f"--engine-arg hf_overrides={{head_dtype: {head}}}: log probs are exact only from a "
            "float32 head; remove it"
        )
    overrides = dict(given)
    if options.dtype != "float32":
        overrides["head_dtype"] = "float32"
    return {
        **defaults,
        **options.engine_args,
        **_OURS,
        "hf_overrides": overrides,
        "model": str(options.model),
        "dtype": options.dtype,
        # vLLM samples one token behind the sequence, which needs a place of its own.
        "max_model_len": None if options.max_model_len is None else options.max_model_len + 1,
        # Of top-k the server keeps `--max-top-k` itself; vLLM would bound given ids by it as well.
        "max_logprobs": -1,
    }


def _adapter_arguments(options: VllmOptions) -> dict[str, Any]:
    """Where weights may come from at all, adapters are taken, unless `enable_lora` says no."""
    asked = options.engine_args.get("enable_lora")
    if asked and not options.weights_roots:
        raise InputError(
            "--engine-arg enable_lora=true: adapters are read from --weights-root, which is not "
            "given; give it"
        )
    if not options.weights_roots or asked is False:
        return {}
    from vllm.platforms import current_platform

    layers = adaptable_layers(model_outline(options.model, options.dtype))
    given = options.engine_args.get("lora_target_modules") or []
    if unknown := sorted(set(given) - set(layers)):
        raise InputError(
            f"--engine-arg lora_target_modules={given}: {unknown[0]} is no layer that adapters may "
            f"change while scoring; give some of {', '.join(layers)}"
        )
    # On a CPU vLLM computes requests without an adapter with the one in the last place, when others
    # of the same step have one: that place must stay empty.
    places = options.max_loaded_weights + current_platform.is_cpu()
    return {
        "enable_lora": True,
        "max_loras": places,
        "max_cpu_loras": places,
        # Around the head vLLM puts an adapter that knows rows to sample from, but none to score.
        "lora_target_modules": layers,
    }


def _without_adapters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in arguments.items()
        if name not in ("enable_lora", "max_loras", "max_cpu_loras", "lora_target_modules")
    }


def _takes_adapters(config: "VllmConfig") -> bool:
    """Whether vLLM knows how to put adapters on this kind of model."""
    from vllm.model_executor.model_loader.utils import get_model_cls
    from vllm.model_executor.models import supports_lora

    return bool(supports_lora(get_model_cls(config.model_config)))


def _check_heads(config: "VllmConfig") -> None:
    """Refuses heads that vLLM's kernels for CPUs lack, before they end the engine at its first
    token."""
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    model = config.model_config
    if not current_platform.is_cpu() or model.use_mla:
        return
    size = model.get_head_size()
    if not CPUAttentionBackend.supports_head_size(size):
        known = ", ".join(map(str, CPUAttentionBackend.get_supported_head_sizes()))
        raise InputError(
            f"--model {model.model}: its heads have {size} dimensions, and on a CPU vLLM computes "
            f"those of {known}; use --engine transformers"
        )


def _create(arguments: Mapping[str, Any]) -> "VllmConfig":
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    try:
        return AsyncEngineArgs(**arguments).create_engine_config(UsageContext.ENGINE_CONTEXT)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}={one['input']}: {one['msg']}"
            if one["loc"]
            # It speaks of several arguments, and `input` is all of them.
            else one["msg"]
            for one in error.errors(include_url=False)
        )
        if "max_model_len" in wrong:
            wrong += (
                " (vLLM was asked for one more than --max-model-len, because it samples a token "
                "behind the sequence: give at most the model's limit less 1, or leave it out)"
            )
        raise InputError(f"--engine-arg, or an option of the same name: {wrong}") from error
    except (ValueError, TypeError, OSError) as error:
        raise InputError(f"vLLM cannot start with these arguments: {error}") from error


def _choose_path(asked: PathName, config: "VllmConfig") -> type[ScoringPath]:
    possible = _possible_paths(config)
    if asked == "auto":
        return possible[0]
    if PATHS[asked] not in possible:
        from vllm import __version__

        raise InputError(
            f"--scoring-path {asked}: vLLM {__version__} with this model and device cannot; "
            f"possible: {', '.join(path.name for path in possible)}, or auto"
        )
    return PATHS[asked]


def _possible_paths(config: "VllmConfig") -> list[type[ScoringPath]]:
    """The paths that this release, model and device have, best first."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    if config.use_v2_model_runner:
        has_token_ids = "prompt_logprob_start" in SamplingParams.__struct_fields__
        return [TokenIdsPath, PromptLogProbsPath] if has_token_ids else [PromptLogProbsPath]
    has_rows = (
        hasattr(GPUModelRunner, "_get_prompt_logprobs_dict")
        and "prompt_token_id_logprobs_dict" in ModelRunnerOutput.__dataclass_fields__
        and "prompt_token_id_logprobs" in EngineCoreOutput.__struct_fields__
    )
    return [ResponseRowsPath, PromptLogProbsPath] if has_rows else [PromptLogProbsPath]


def _hits_can_be_capped() -> bool:
    """Whether this release's scheduler has the method that ours overrides."""
    from vllm.v1.core.sched.scheduler import Scheduler

    return hasattr(Scheduler, "_get_local_prefix_cache_hit")
