"""The engine on vLLM's `AsyncLLM`: all pairs of a job in flight at once."""

import asyncio
import itertools
import logging
import os
import socket
import time
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from counterhint.errors import (
    ENGINE_DEAD,
    EngineFailure,
    InputError,
    Unavailable,
    WeightsUnavailable,
)
from counterhint.jobs import Outputs, Scores, ScoringJob, TeacherInfo, join_pairs, pairs_array
from counterhint.messages import check_finite
from counterhint.request_context import TRACEPARENT, current
from counterhint.validation import check_token_ids
from teacher_server import metrics
from teacher_server.engines.base import Engine, Scored, one_token_job
from teacher_server.engines.model_folder import (
    check_model_folder,
    folder_fingerprint,
    folder_name,
    folder_revision,
)
from teacher_server.engines.vllm.options import VllmOptions, engine_config
from teacher_server.engines.vllm.requests import (
    PairRequest,
    PromptLogProbsPath,
    ResponseRowsPath,
    ScoringPath,
    pair_requests,
)
from teacher_server.engines.vllm.weights import VllmWeights
from teacher_server.private_folder import PrivateFolder

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput

log = logging.getLogger(__name__)

PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
"""Largest difference between our path's numbers and the public interface's that is rounding."""
SHUTDOWN_SECONDS = 8.0
"""How long vLLM's processes may take to end before they are killed; on a machine with two busy
cores they take 5 s."""


class VllmEngine(Engine):
    """Scores with a vLLM engine in processes of its own.

    Raises:
        InputError: vLLM is not installed, or does not take the arguments or the model.
        Unavailable: ENGINE_DEAD, its processes ended while they loaded the model.
    """

    concurrent_jobs = 64

    def __init__(self, options: VllmOptions) -> None:
        check_model_folder(options.model)
        self._folder = PrivateFolder()
        # vLLM leaves the sockets of its processes behind.
        os.environ["VLLM_RPC_BASE_PATH"] = str(self._folder.path)
        config, path = engine_config(options)
        from vllm.v1.engine.async_llm import AsyncLLM

        self._options = options
        self._path: ScoringPath = path()
        self._steps = _StepCounter()
        self._names = map(str, itertools.count())
        self.second_requests = 0
        """Pairs that had to be sent again because a prefix hit had swallowed some of their rows."""
        self.info = _describe(options, config, self._path)
        try:
            with self._folder.for_children():
                self._llm = AsyncLLM.from_vllm_config(config, stat_loggers=[self._steps.logger])
        except RuntimeError as error:  # vLLM has no class of its own for this
            raise Unavailable(
                f"vLLM could not load --model {options.model}; its processes say why above "
                f"({error})",
                reason=ENGINE_DEAD,
            ) from error
        self._weights = VllmWeights(
            self._llm, options, self.info.weights_revision, self._folder.path
        )
        self._ranks: int = config.parallel_config.data_parallel_size
        self._traces = config.observability_config.otlp_traces_endpoint is not None

    async def start(self) -> None:
        """Sets up scoring in the workers, and compares its numbers with the public interface's."""
        await self._llm.collective_rpc("end_with", args=(socket.gethostname(), os.getpid()))
        if isinstance(self._path, ResponseRowsPath):
            started = await self._llm.collective_rpc("start_scoring_rows")
            if not all(started):
                raise InputError(
                    "--scoring-path response-rows: this vLLM's model runner cannot; give "
                    "--scoring-path prompt-log-probs"
                )
        await self._weights.start()
        difference = await self._difference_from_public()
        if not difference <= PROBE_TOLERANCE[self._options.dtype]:
            raise InputError(
                f"--scoring-path {self._path.name}: its log probs differ from vLLM's prompt log "
                f"probs by {difference:.2g}; give --scoring-path prompt-log-probs"
            )
        log.info("scoring path: %s", self._path.name)

    async def score(self, job: ScoringJob) -> Scored:
        """Scores one job; when it is cancelled, its requests are aborted in vLLM."""
        check_token_ids(job, self.info.vocab_size)  # one outside would end vLLM
        async with self._weights.use(job.weights) as adapter:
            start = time.perf_counter()
            pairs = await self._score_pairs(job, adapter)
            seconds = time.perf_counter() - start
            if isinstance(self._path, ResponseRowsPath):
                # Without what jobs side by side make each other wait.
                seconds = sum(pair.seconds for pair in pairs)
            return Scored(
                join_pairs([pair.scores for pair in pairs]),
                job.weights.revision if job.weights else self.info.weights_revision,
                sum(pair.tokens_computed for pair in pairs),
                seconds,
            )

    async def check(self) -> Scored:
        """Scores one token by the weights that vLLM holds, so that none are exchanged for it; by
        the server's own where that fails, since a job's weights must not speak for the engine."""
        job = one_token_job(self.info)
        held = self._weights.whole
        if held is not None:
            try:
                scored = await self.score(replace(job, weights=held))
                check_finite(scored.scores)
            # Others took their place meanwhile and their file is gone, or they diverged.
            except (WeightsUnavailable, EngineFailure) as error:
                log.warning("checked by the server's own weights: %s", error)
            else:
                return scored
        return await self.score(job)

    def dead(self) -> bool:
        """Whether a process of vLLM has ended."""
        return bool(self._llm.errored)

    def progress(self) -> int:
        """Steps of vLLM's scheduler so far, and of loading weights."""
        return self._steps.count + self._weights.steps

    @property
    def path_name(self) -> str:
        """How vLLM is asked for scores, as in `--scoring-path`."""
        return self._path.name

    async def take_step_seconds(self) -> float | None:
        """Seconds that the model runner spent in its steps since this was last asked; None on the
        paths that leave the runner as it is."""
        if not isinstance(self._path, ResponseRowsPath):
            return None
        seconds: list[float] = await self._llm.collective_rpc("take_step_seconds")
        return max(seconds)

    async def peak_bytes(self) -> int:
        """Most memory that the workers ever held, together."""
        peaks: list[int] = await self._llm.collective_rpc("peak_bytes")
        return sum(peaks)

    async def reset_prefix_cache(self) -> None:
        """Forgets all contexts; no request may be under way."""
        await self._llm.reset_prefix_cache()

    async def generate(
        self,
        tokens: list[int],
        params: "SamplingParams",
        adapter: "LoRARequest | None" = None,
        rank: int | None = None,
    ) -> "RequestOutput":
        """The last output of one request to vLLM; what is no scoring job asks by it.

        Args:
            tokens: the prompt.
            params: what is asked.
            adapter: what is put on top of the weights.
            rank: which of several data-parallel replicas; None for any.

        Raises:
            EngineFailure: it ended without a result.
            Unavailable: vLLM's engine is dead.
        """
        from vllm.exceptions import VLLMError
        from vllm.inputs import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        asked = current().trace
        traced = self._traces and asked.traceparent
        headers = {TRACEPARENT: asked.traceparent} if traced else None
        final: Any = None
        try:
            async for output in self._llm.generate(
                tokens_input(tokens),
                params,
                f"{asked.request_id or 'check'}-{next(self._names)}",
                lora_request=adapter,
                trace_headers=headers,
                data_parallel_rank=rank,
            ):
                final = output
        except EngineDeadError as error:
            raise Unavailable("vLLM's engine is dead", reason=ENGINE_DEAD) from error
        except (VLLMError, ValueError) as error:
            raise EngineFailure(f"vLLM failed: {error}", reason="ENGINE_FAILED") from error
        if final is None or final.outputs[0].finish_reason not in ("length", "stop"):
            raise EngineFailure("vLLM ended a request without a result", reason="ENGINE_FAILED")
        return final

    async def close(self) -> None:
        """Ends vLLM's processes."""
        self._llm.shutdown(timeout=SHUTDOWN_SECONDS)
        self._folder.close()

    async def _score_pairs(
        self, job: ScoringJob, adapter: "LoRARequest | None"
    ) -> "list[_ScoredPair]":
        """Each pair's scores."""
        requests = pair_requests(job)
        try:
            async with asyncio.TaskGroup() as pairs:
                # By context, so that a context's requests meet it in the cache.
                order = np.argsort(job.pairs[:, 0], kind="stable").tolist()
                tasks = {
                    index: pairs.create_task(self._score_pair(requests[index], adapter))
                    for index in order
                }
        except ExceptionGroup as failures:
            # Pairs may fail at once, and each in its own way; a dead engine explains the rest.
            worst = failures.subgroup(Unavailable) or failures
            raise worst.exceptions[0] from None
        return [tasks[index].result() for index in range(len(requests))]

    async def _score_pair(
        self, request: PairRequest, adapter: "LoRARequest | None"
    ) -> "_ScoredPair":
        """One pair's scores."""
        computed, seconds = 0, 0.0
        for cached in (True, False):
            params = self._path.sampling_params(request, cached=cached)
            output = await self.generate(request.tokens, params, adapter, self._rank_of(request))
            computed += len(request.tokens) - (output.num_cached_tokens or 0)
            seconds += self._path.seconds(output) or 0.0
            scores = self._path.read(request, output, cached=cached)
            if scores is not None:
                return _ScoredPair(scores, computed, seconds)
            self.second_requests += cached
            metrics.SECOND_REQUESTS.inc(cached)
        raise EngineFailure(
            "vLLM left out rows of a response although nothing was cached", reason="ROWS_MISSING"
        )

    def _rank_of(self, request: PairRequest) -> int | None:
        """The data-parallel replica whose cache holds the pair's context."""
        if self._ranks == 1:
            return None
        context = np.array(request.tokens[: request.start + 1], dtype=np.int32)
        return zlib.crc32(context.tobytes()) % self._ranks

    async def _difference_from_public(self) -> float:
        """The largest difference between our path and the public interface on a few tokens.

        The tokens themselves are asked for as given ids too, where the path has those.
        """
        length = min(8, self.info.max_model_len // 2)
        ids = (np.arange(2 * length) % self.info.vocab_size).astype(np.int32)
        context, response = ids[:length], ids[length:]
        given = "given" in self._path.outputs
        job = ScoringJob(
            "probe",
            "",
            (context,),
            (response,),
            pairs_array([(0, 0)]),
            self.info.tokenizer_fingerprint,
            Outputs(top_k=min(4, self.info.max_top_k), given=given),
            response[:, None] if given else None,
        )
        ours = (await self.score(job)).scores
        (request,) = pair_requests(job)
        public = PromptLogProbsPath()
        output = await self.generate(request.tokens, public.sampling_params(request, cached=False))
        expected = public.read(request, output, cached=False)
        assert expected is not None
        compared: list[Any] = [(ours.sampled, expected.sampled)]
        if given:
            assert ours.given is not None
            compared.append((ours.given[:, 0], expected.sampled))
        if job.outputs.top_k:
            compared.append((ours.top_k_log_probs, expected.top_k_log_probs))
        return max(float(np.abs(one - other).max()) for one, other in compared)


@dataclass(frozen=True, slots=True)
class _ScoredPair:
    """What came back for a pair."""

    scores: Scores
    tokens_computed: int
    """Those of a second request included."""
    seconds: float
    """In vLLM's steps; 0 where they are not known."""


def _describe(options: VllmOptions, config: Any, path: ScoringPath) -> TeacherInfo:
    from vllm import __version__

    vocab_size = config.model_config.get_vocab_size()
    return TeacherInfo(
        model_id=options.model_id or folder_name(options.model),
        weights_revision=folder_revision(options.model),
        tokenizer_fingerprint=folder_fingerprint(options.model),
        vocab_size=vocab_size,
        max_model_len=config.model_config.max_model_len - 1,
        max_top_k=min(options.max_top_k, vocab_size),
        engine="vllm",
        engine_version=__version__,
        max_job_tokens=options.max_job_tokens,
        outputs=path.outputs,
    )


class _StepCounter:
    """Counts the steps that vLLM's scheduler reports."""

    def __init__(self) -> None:
        self.count = 0

    def logger(self, config: Any, engine_index: int = 0) -> "_StepCounter":
        """What vLLM calls a stat logger factory; of a stat logger it calls what follows."""
        return self

    def record(self, *args: Any, **kwargs: Any) -> None:
        """Called once a step."""
        self.count += 1

    def log(self) -> None: ...

    def log_engine_initialized(self) -> None: ...

    def record_sleep_state(self, is_awake: int, level: int) -> None: ...
