"""The embedded engine: a transformers model in this process, on CPU or one GPU."""

import asyncio
import copy
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from counterhint.errors import EngineFailure, InputError, JobCancelled
from counterhint.jobs import ScoringJob, TeacherInfo, Weights, pairs_array
from teacher_server.adapters import adapted_model, merge_adapter
from teacher_server.engines.base import Engine, Scored
from teacher_server.engines.model_folder import (
    check_model_folder,
    folder_fingerprint,
    folder_name,
    folder_revision,
)
from teacher_server.engines.shared_prefix import GroupScorer, check_shareable
from teacher_server.weights import LoadedWeights, fit_to_model, read_weights

log = logging.getLogger(__name__)

PROBE_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.5}
"""Largest difference between group scoring and the model's own logits that is rounding."""


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """How the engine is set up."""

    model: Path
    """A model folder in the transformers format, with its tokenizer."""
    model_id: str | None = None
    """The model's name; the folder's name when None."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it computes; auto takes a GPU when there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; the head and all log probs are float32 in any case."""
    max_batch_tokens: int = 16384
    """Most tokens of a batch, padding and cached ones included."""
    max_model_len: int | None = None
    """Longest context + response; the model's own limit when None."""
    max_top_k: int = 128
    """Largest top-k; never more than the vocabulary."""
    max_job_tokens: int = 131072
    """Largest job in computed tokens."""
    weights_roots: Sequence[Path] = ()
    """Folders that named weights may come from."""
    max_loaded_weights: int = 2
    """Named weights that are held at once, beside the server's own."""


class TransformersEngine(Engine):
    """Runs all torch work on one thread, a job at a time, so that the event loop stays free.

    Raises:
        InputError: the folder is missing or holds no model or tokenizer, the device is not there,
            or the model is of a kind whose cache or head this engine does not know.
    """

    def __init__(self, options: TransformersOptions) -> None:
        self._options = options
        self.model = load_model(options.model, options.device, options.dtype)
        self._own = self._scorer(self.model)
        self.info = _describe(options, self.model)
        _check_against_plain_forward(self._own, self.info)
        self._named = LoadedWeights(options.max_loaded_weights, self._prepare_named)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scoring")
        self._batches = 0

    async def score(self, job: ScoringJob) -> Scored:
        """Scores one job; a cancelled one ends before its next batch.

        Raises:
            EngineFailure: OUT_OF_MEMORY, for this job alone: what it took is free again.
        """
        cancelled = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._score_within_memory, job, cancelled
            )
        finally:
            cancelled.set()

    def progress(self) -> int:
        """Batches begun so far."""
        return self._batches

    async def close(self) -> None:
        """Ends the thread after the batch that it is at."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _score_within_memory(self, job: ScoringJob, cancelled: threading.Event) -> Scored:
        try:
            return self._score(job, cancelled)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Out here the error is gone, and with it the frames that hold the job's tensors.
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        raise EngineFailure(
            f"job {job.id!r} ({job.tokens_computed} tokens) does not fit into the memory of "
            f"{self.model.device}: lower --max-batch-tokens {self._options.max_batch_tokens}",
            reason="OUT_OF_MEMORY",
            details={"job": job.id, "tokens": job.tokens_computed},
        )

    def _score(self, job: ScoringJob, cancelled: threading.Event) -> Scored:
        def check() -> None:
            self._batches += 1
            if cancelled.is_set():
                raise JobCancelled(f"job {job.id!r} was cancelled", reason="CANCELLED")

        check()
        scorer, revision = self._own, self.info.weights_revision
        if job.weights is not None:
            scorer, revision = self._named.get(job.weights), job.weights.revision
        start = time.perf_counter()
        scores = scorer.score(job, check)
        seconds = time.perf_counter() - start
        return Scored(scores, revision, job.tokens_computed, seconds)

    def _prepare_named(self, weights: Weights) -> Callable[[], GroupScorer]:
        file = read_weights(weights, self._options.weights_roots)
        if file.adapter is None:
            state = fit_to_model(file.tensors, self.model, weights)
            return lambda: self._scorer(with_tensors(self.model, state))
        adapted = adapted_model(self.model, file.tensors, file.adapter, weights)
        return lambda: self._scorer(merge_adapter(adapted))

    def _scorer(self, model: PreTrainedModel) -> GroupScorer:
        return GroupScorer(model, self._options.max_batch_tokens)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed; on a CPU, torch has no class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def with_tensors(model: PreTrainedModel, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A copy of the model with other tensors, all of them."""
    # A copy of the modules around the same parameters, which the loaded ones then replace.
    shared = {id(parameter): parameter for parameter in model.parameters()}
    copied = copy.deepcopy(model, shared)
    device = model.device
    copied.load_state_dict({name: t.to(device) for name, t in state.items()}, assign=True)
    return copied.requires_grad_(False)


def load_model(
    folder: Path,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> PreTrainedModel:
    """The model of a folder, ready to score.

    Raises:
        InputError: the folder holds no model or a damaged one, the device is not there, or the
            model's cache cannot be shared.
    """
    check_model_folder(folder)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no GPU is visible here; use --device cpu")
    loader: Any = AutoModelForCausalLM  # its stubs do not know output_loading_info
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # Soft-capped attention scores (Gemma 2) exist in the eager implementation only.
        capped = getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
        model, report = loader.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, dtype),
            attn_implementation="eager" if capped else "sdpa",
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, OSError) as error:
        raise InputError(f"--model {folder} cannot be loaded: {error}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(
            f"--model {folder}: its safetensors lack {len(missing)} tensors of "
            f"{type(model).__name__}, {missing[0]} first: copy the folder again"
        )
    check_shareable(model)
    loaded: PreTrainedModel = model.to(device).eval().requires_grad_(False)
    return loaded


def _describe(options: TransformersOptions, model: PreTrainedModel) -> TeacherInfo:
    embeddings: Any = model.get_input_embeddings()
    embedded = int(embeddings.weight.shape[0])
    limit = options.max_model_len or getattr(
        model.config.get_text_config(), "max_position_embeddings", None
    )
    if limit is None:
        raise InputError(
            f"--model {options.model}: its configuration has no max_position_embeddings; "
            "give --max-model-len"
        )
    return TeacherInfo(
        model_id=options.model_id or folder_name(options.model),
        weights_revision=folder_revision(options.model),
        tokenizer_fingerprint=folder_fingerprint(options.model),
        # Rows that stand for no token count too: they have a probability, so that a student may
        # sample one, or find it among its most probable ones.
        vocab_size=embedded,
        max_model_len=limit,
        max_top_k=min(options.max_top_k, embedded),
        engine="transformers",
        engine_version=transformers.__version__,
        max_job_tokens=options.max_job_tokens,
    )


@torch.inference_mode()
def _check_against_plain_forward(scorer: GroupScorer, info: TeacherInfo) -> None:
    """Scores a few tokens both ways, so that a model with unknown parts is refused, not misread."""
    length = min(8, info.max_model_len // 2)
    ids = (np.arange(2 * length + 1) % info.vocab_size).astype(np.int32)
    contexts = (ids[:length], ids[1 : length // 2 + 1])
    responses = (ids[length : 2 * length], ids[1:2])
    pairs = [(context, response) for context in range(2) for response in range(2)]
    job = ScoringJob("probe", "", contexts, responses, pairs_array(pairs), "")
    ours = scorer.score(job).sampled
    assert ours is not None
    plain = []
    for context, response in pairs:
        tokens = np.concatenate([contexts[context], responses[response]]).astype(np.int64)
        row = torch.from_numpy(tokens).to(scorer.model.device)[None]
        start = len(contexts[context])
        log_probs = scorer.model(row).logits[0, start - 1 : -1].float().log_softmax(-1)
        plain.append(log_probs.gather(-1, row[0, start:, None]).flatten().cpu().numpy())
    difference = float(np.abs(np.concatenate(plain) - ours).max())
    if not difference <= PROBE_TOLERANCE[scorer.model.dtype]:
        raise InputError(
            f"{type(scorer.model).__name__}: group scoring differs from a plain forward pass by "
            f"{difference:.2g}, so this model has parts that the transformers engine does not know"
        )
