"""Measures the queue: jobs through enqueue → claim → complete, and claims by number of runs.

A Redis is measured with everything that lies between: its process, the socket, this process's side
of the calls. Keys have a prefix of their own and are removed at the end.
"""

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import redis.asyncio as redis
from redis.exceptions import RedisError

from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.records import QueuedJob, QueueSettings
from services.queue.redis_streams import RedisQueue

RUN_COUNTS = (10, 100, 1000)
"""Runs with work while claims are timed."""
ROUNDS = 200
"""Timed claims a number of runs; the numbers take turns, so that they meet the same machine."""
COST = 1000
"""Tokens of a job."""
UNDER_WAY = 8
"""Unfinished jobs a worker while the way of the jobs is timed."""
_EVER = 1 << 62
_SETTINGS = QueueSettings(
    max_jobs=_EVER,
    max_bytes=_EVER,
    max_run_jobs=_EVER,
    max_run_bytes=_EVER,
    lease_seconds=3600.0,
    aging_seconds=3600.0,
)


@dataclass(frozen=True, slots=True)
class ClaimFigures:
    """Claims while so many runs have work."""

    runs: int
    median_seconds: float
    """From the call to the claim, nothing else being under way."""
    p95_seconds: float


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What `bench_queue` measured."""

    queue: str
    """`memory` or `redis`."""
    jobs: int
    runs: int
    """Runs that the jobs belong to."""
    workers: int
    payload_bytes: int
    """Of a request and of a result."""
    jobs_per_second: float
    """Through the whole way; submitters and workers share this process."""
    claims: tuple[ClaimFigures, ...]
    claim_ratio: float
    """Median claim with the most runs over that with the fewest."""


async def bench_queue(
    url: str | None, jobs: int, runs: int, payload_bytes: int, workers: int
) -> QueueFigures:
    """Measures the queue in this process, or the one in a Redis.

    Args:
        url: the Redis; None for the queue in process.
        jobs: how many go the whole way.
        runs: how many runs they belong to.
        payload_bytes: size of a request and of a result.
        workers: coroutines that submit, and as many that claim and complete.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    async with _open(url) as queue:
        seconds = await _whole_way(queue, jobs, runs, payload_bytes, workers)
    claims = await _claims(url, payload_bytes)
    return QueueFigures(
        queue="memory" if url is None else "redis",
        jobs=jobs,
        runs=runs,
        workers=workers,
        payload_bytes=payload_bytes,
        jobs_per_second=jobs / seconds,
        claims=claims,
        claim_ratio=claims[-1].median_seconds / claims[0].median_seconds,
    )


@asynccontextmanager
async def _open(url: str | None) -> AsyncIterator[JobQueue]:
    """An empty queue that leaves nothing behind."""
    if url is None:
        async with MemoryQueue(_SETTINGS) as queue:
            yield queue
        return
    prefix = f"{{bench-{uuid.uuid4().hex}}}"
    try:
        async with RedisQueue(url, _SETTINGS, prefix=prefix) as queue:
            yield queue
    finally:
        with suppress(RedisError):  # then it is the reason why we are here
            async with redis.Redis.from_url(url) as client:
                async for key in client.scan_iter(match=f"{prefix}*", count=1000):
                    await client.unlink(key)


async def _whole_way(
    queue: JobQueue, jobs: int, runs: int, payload_bytes: int, workers: int
) -> float:
    """Seconds from the first job's way into the queue to the last result."""
    payload, result = os.urandom(payload_bytes), os.urandom(payload_bytes)
    numbers = iter(range(jobs))
    room = asyncio.Semaphore(workers * UNDER_WAY)
    left = jobs

    async def submit() -> None:
        for number in numbers:
            await room.acquire()
            await queue.enqueue(QueuedJob(f"job {number}", f"run {number % runs}", COST, payload))

    async def work(worker: str) -> None:
        nonlocal left
        while left:
            claim = await queue.claim(worker, timeout=0.1)
            if claim is not None:
                await queue.complete(claim, result)
                left -= 1
                room.release()

    start = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(workers):
            tasks.create_task(submit())
            tasks.create_task(work(f"worker {number}"))
    return time.perf_counter() - start


async def _claims(url: str | None, payload_bytes: int) -> tuple[ClaimFigures, ...]:
    """Times single claims while 10, 100 and 1,000 runs have work."""
    payload = os.urandom(payload_bytes)
    times: dict[int, list[float]] = {count: [] for count in RUN_COUNTS}
    async with AsyncExitStack() as stack:
        queues = {count: await stack.enter_async_context(_open(url)) for count in RUN_COUNTS}
        for count, queue in queues.items():
            jobs = (  # two for each run: while one is claimed, it still has work
                QueuedJob(f"job {number}", f"run {number % count}", COST, payload)
                for number in range(2 * count)
            )
            await asyncio.gather(*(queue.enqueue(job) for job in jobs))
        for number in range(ROUNDS):
            for count, queue in queues.items():
                start = time.perf_counter()
                claim = await queue.claim("worker", timeout=60.0)
                times[count].append(time.perf_counter() - start)
                if claim is None:
                    raise RuntimeError(f"{count} runs have work, and nothing could be claimed")
                await queue.complete(claim, payload)
                await queue.enqueue(QueuedJob(f"again {number}", claim.run_id, COST, payload))
    return tuple(
        ClaimFigures(count, statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1])
        for count, seconds in times.items()
    )
