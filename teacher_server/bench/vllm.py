"""Group scoring with vLLM against the way of public trainers: one request a pair.

Both run on one engine, by turns, each from an empty prefix cache. The naive way sends every pair as
a prompt with `prompt_logprobs`, so that vLLM, by its default policy, reads no cached prefix, scores
every prompt token and gives a dictionary a position.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from counterhint.jobs import ScoringJob
from counterhint.validation import validate_job
from teacher_server.bench.job import GroupShape, group_job
from teacher_server.engines.vllm.engine import VllmEngine
from teacher_server.engines.vllm.options import VllmOptions, parse_engine_args
from teacher_server.engines.vllm.requests import PairRequest, pair_requests

if TYPE_CHECKING:
    from vllm import SamplingParams


@dataclass(frozen=True, slots=True)
class VllmFigures:
    """What the benchmark measured; seconds are medians over the repeats."""

    scoring_path: str
    """How the engine asked vLLM for the scores."""
    tokens_naive: int
    """Tokens of one full forward pass a pair."""
    tokens_computed: int
    """Tokens with every context computed once."""
    tokens_computed_ours: int
    """Tokens that vLLM computed our way: contexts are shared in whole cache blocks."""
    ceiling: float
    """`tokens_naive / tokens_computed`: the speed-up if every token cost the same."""
    seconds_naive: float
    """For the whole job."""
    seconds_ours: float
    """For the whole job."""
    speedup: float
    """`seconds_naive / seconds_ours`."""
    share_of_ceiling: float
    """`speedup / ceiling`; above 1 when attention and head save more than the tokens tell."""
    step_seconds_naive: float | None
    """Of `seconds_naive`, inside the steps of vLLM's model runner; None where the scoring path
    leaves the runner as it is."""
    step_seconds_ours: float | None
    """Of `seconds_ours`, likewise."""
    outside_share: float | None
    """Share of `seconds_ours` that was spent outside of these steps."""
    max_abs_diff: float
    """Largest difference between the log probs of both ways."""
    second_requests: int
    """Pairs that had to be sent again, because a prefix hit had swallowed rows of theirs."""
    peak_bytes_ours: int
    """Most memory that vLLM's workers ever held after the first round our way, model and key-value
    cache included (on a GPU: that torch held there)."""
    peak_bytes_naive: int
    """The same after the first round the naive way, which came second."""


@dataclass(frozen=True, slots=True)
class _Timed:
    """One way in one round."""

    log_probs: NDArray[np.float32]
    """`[N]`."""
    tokens_computed: int
    seconds: float
    step_seconds: float | None
    peak_bytes: int


def bench_vllm(
    folder: Path, shape: GroupShape, engine_args: Sequence[str], repeats: int
) -> VllmFigures:
    """Scores a job both ways, by turns, after one round to warm up.

    Args:
        folder: the model's.
        shape: the job.
        engine_args: `name=value`, as vLLM names them.
        repeats: measured rounds.

    Raises:
        InputError: vLLM is not here, or does not take the model or the arguments.
        CounterhintError: the job does not fit the model.
    """
    options = VllmOptions(folder, engine_args=parse_engine_args(engine_args))
    return asyncio.run(_bench(options, shape, repeats))


async def _bench(options: VllmOptions, shape: GroupShape, repeats: int) -> VllmFigures:
    engine = VllmEngine(options)
    try:
        await engine.start()
        info = engine.info
        job = group_job(shape, info.vocab_size, info.tokenizer_fingerprint)
        validate_job(job, info)
        ours, naive = [], []
        for _ in range(repeats + 1):
            ours.append(await _timed(engine, job, _score_ours))
            naive.append(await _timed(engine, job, _score_naively))
    finally:
        await engine.close()
    seconds_naive, seconds_ours = _median_seconds(naive), _median_seconds(ours)
    step_seconds_ours = _median_step_seconds(ours)
    ceiling = job.tokens_naive / job.tokens_computed
    speedup = seconds_naive / seconds_ours
    return VllmFigures(
        scoring_path=engine.path_name,
        tokens_naive=job.tokens_naive,
        tokens_computed=job.tokens_computed,
        tokens_computed_ours=ours[-1].tokens_computed,
        ceiling=ceiling,
        seconds_naive=seconds_naive,
        seconds_ours=seconds_ours,
        speedup=speedup,
        share_of_ceiling=speedup / ceiling,
        step_seconds_naive=_median_step_seconds(naive),
        step_seconds_ours=step_seconds_ours,
        outside_share=None if step_seconds_ours is None else 1 - step_seconds_ours / seconds_ours,
        max_abs_diff=float(np.abs(ours[-1].log_probs - naive[-1].log_probs).max()),
        second_requests=engine.second_requests,
        peak_bytes_ours=ours[0].peak_bytes,
        peak_bytes_naive=naive[0].peak_bytes,
    )


Score = Callable[[VllmEngine, ScoringJob], Awaitable[tuple[NDArray[np.float32], int]]]
"""One way of scoring a job: log probs `[N]`, and the tokens computed for them."""


async def _timed(engine: VllmEngine, job: ScoringJob, score: Score) -> _Timed:
    await engine.reset_prefix_cache()
    await engine.take_step_seconds()
    start = time.perf_counter()
    log_probs, tokens = await score(engine, job)
    seconds = time.perf_counter() - start
    step_seconds = await engine.take_step_seconds()
    return _Timed(log_probs, tokens, seconds, step_seconds, await engine.peak_bytes())


async def _score_ours(engine: VllmEngine, job: ScoringJob) -> tuple[NDArray[np.float32], int]:
    scored = await engine.score(job)
    assert scored.scores.sampled is not None
    return scored.scores.sampled, scored.tokens_computed


async def _score_naively(engine: VllmEngine, job: ScoringJob) -> tuple[NDArray[np.float32], int]:
    pairs = await asyncio.gather(*(_score_pair(engine, request) for request in pair_requests(job)))
    return np.concatenate(pairs), job.tokens_naive


async def _score_pair(engine: VllmEngine, request: PairRequest) -> NDArray[np.float32]:
    """Log probs `[T]` of a response, out of the dictionaries of the whole prompt."""
    output = await engine.generate(request.tokens, _naive_params(request))
    positions: Any = output.prompt_logprobs
    response = request.tokens[request.start + 1 :]
    return np.array(
        [
            position[token].logprob
            for position, token in zip(positions[-len(response) :], response, strict=True)
        ],
        dtype=np.float32,
    )


def _naive_params(request: PairRequest) -> "SamplingParams":
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, prompt_logprobs=request.outputs.top_k)


def _median_seconds(rounds: Sequence[_Timed]) -> float:
    return statistics.median(one.seconds for one in rounds[1:])


def _median_step_seconds(rounds: Sequence[_Timed]) -> float | None:
    seconds = [one.step_seconds for one in rounds[1:] if one.step_seconds is not None]
    return statistics.median(seconds) if seconds else None
