"""Group scoring the whole way: client, gRPC, queue, teacher, engine and back.

Every round scores a job of new random tokens, because a server keeps the contexts of the last one.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from counterhint.client import AsyncScoringClient
from counterhint.errors import InputError, Unavailable
from counterhint.jobs import ScoringJob, ScoringResult, TeacherInfo
from counterhint.validation import validate_job
from teacher_server.bench.job import GroupShape, group_job
from teacher_server.bench.openai_server import OpenAiServer, ServerReply

CONNECT_SECONDS = 10.0
"""How long the address may take for its first answer."""
PAUSE_SECONDS = 1.0
"""Between the turns of two servers: what one does after its answer must not slow the other."""


@dataclass(frozen=True, slots=True)
class ServedFigures:
    """What the benchmark measured at one address; seconds are medians over the repeats."""

    engine: str
    """The teacher's engine."""
    tokens_naive: int
    """Tokens of one full forward pass a pair."""
    tokens_computed: int
    """Tokens that the teacher computed."""
    seconds: float
    """From the job in the client's hands to its result there."""
    engine_seconds: float
    """Of them, inside the engine, as it says with the result."""
    wait_seconds: float
    """Of them, between acceptance at the teacher and its engine."""
    outside_share: float
    """Share of `seconds` outside the engine: client, conversion, gRPC, queue."""


@dataclass(frozen=True, slots=True)
class AgainstFigures:
    """The whole way against another server, which answered one request a pair."""

    ours: ServedFigures
    """At our address."""
    seconds_against: float
    """Of the other server, all requests at once; a median."""
    bytes_against: float
    """Of its replies, a response token."""
    speedup: float
    """`seconds_against / ours.seconds`."""
    ceiling: float
    """Tokens of one full forward pass a pair, over those with every context computed once."""
    max_abs_diff: float
    """Largest difference between the log probs of both, the top k's included."""


def bench_served(address: str, shape: GroupShape, repeats: int) -> ServedFigures:
    """Scores jobs through a teacher or the services, after one round to warm up.

    Args:
        address: host:port or unix:///path.
        shape: the jobs.
        repeats: measured rounds.

    Raises:
        InputError: nothing answers there.
        CounterhintError: the teacher refuses or fails.
    """

    async def measure() -> ServedFigures:
        async with AsyncScoringClient(address) as client:
            teacher = await _teacher(client)
            rounds = [await _score(client, _job(shape, teacher, seed)) for seed in _seeds(repeats)]
            return _served_figures(rounds[1:])

    return asyncio.run(measure())


def bench_against(address: str, url: str, shape: GroupShape, repeats: int) -> AgainstFigures:
    """Scores the same jobs at our address and at an OpenAI-compatible vLLM server, by turns.

    Args:
        address: ours, host:port or unix:///path.
        url: the other's, http://host:port.
        shape: the jobs.
        repeats: measured rounds, after one to warm up.

    Raises:
        InputError: nothing answers at one of them, or the other server cannot score the jobs.
        CounterhintError: our teacher refuses or fails.
    """

    async def measure() -> AgainstFigures:
        async with AsyncScoringClient(address) as client, OpenAiServer(url) as server:
            teacher = await _teacher(client)
            await server.find_model(shape)
            ours, theirs, differences = [], [], []
            for seed in _seeds(repeats):
                job = _job(shape, teacher, seed)
                await asyncio.sleep(PAUSE_SECONDS)
                ours.append(await _score(client, job))
                await asyncio.sleep(PAUSE_SECONDS)
                theirs.append(await server.score(job))
                differences.append(_difference(ours[-1].result, theirs[-1]))
            figures = _served_figures(ours[1:])
            seconds = statistics.median(reply.seconds for reply in theirs[1:])
            return AgainstFigures(
                ours=figures,
                seconds_against=seconds,
                bytes_against=theirs[-1].bytes / int(job.pair_lengths.sum()),
                speedup=seconds / figures.seconds,
                ceiling=job.tokens_naive / job.tokens_computed,
                max_abs_diff=max(differences),
            )

    return asyncio.run(measure())


@dataclass(frozen=True, slots=True)
class _Round:
    result: ScoringResult
    seconds: float


async def _teacher(client: AsyncScoringClient) -> TeacherInfo:
    try:
        return await client.get_teacher(timeout=CONNECT_SECONDS)
    except Unavailable as error:
        raise InputError(
            f"--url {client.address}: {error}; start a teacher there (counterhint teacher serve), "
            "or give the address of one"
        ) from error


def _job(shape: GroupShape, teacher: TeacherInfo, seed: int) -> ScoringJob:
    job = group_job(shape, teacher.vocab_size, teacher.tokenizer_fingerprint, seed)
    validate_job(job, teacher)
    return job


def _seeds(repeats: int) -> list[int]:
    """A seed for each round, one to warm up, unlike those of other runs of the benchmark."""
    return list(np.random.default_rng().integers(0, 2**63, repeats + 1))


async def _score(client: AsyncScoringClient, job: ScoringJob) -> _Round:
    start = time.perf_counter()
    result = await client.score(job)
    return _Round(result, time.perf_counter() - start)


def _served_figures(rounds: Sequence[_Round]) -> ServedFigures:
    last = rounds[-1].result
    seconds = statistics.median(one.seconds for one in rounds)
    engine_seconds = statistics.median(one.result.cost.engine_seconds for one in rounds)
    return ServedFigures(
        engine=last.engine,
        tokens_naive=last.cost.tokens_naive,
        tokens_computed=last.cost.tokens_computed,
        seconds=seconds,
        engine_seconds=engine_seconds,
        wait_seconds=statistics.median(one.result.cost.wait_seconds for one in rounds),
        outside_share=1 - engine_seconds / seconds,
    )


def _difference(ours: ScoringResult, theirs: ServerReply) -> float:
    assert ours.scores.sampled is not None
    difference = np.abs(ours.scores.sampled - theirs.log_probs).max()
    if ours.scores.top_k_log_probs is not None:  # ids of equal log probs may change places
        top_k = np.abs(ours.scores.top_k_log_probs - theirs.top_k_log_probs).max()
        difference = max(difference, top_k)
    return float(difference)
