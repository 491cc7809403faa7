"""A dispatcher at work, and jobs on their way through its queue."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from counterhint.errors import CounterhintError, failure_from_message
from counterhint.jobs import ScoringJob, ScoringResult
from counterhint.messages import job_to_message, result_from_message
from counterhint.v1 import scoring_pb2
from services.dispatcher import Dispatcher, DispatcherSettings
from services.queue.base import JobQueue
from services.queue.records import JobState, Outcome, QueuedJob
from tests.services.scripted_teacher import make_job


@asynccontextmanager
async def dispatching(
    queue: JobQueue, teachers: Sequence[str], settings: DispatcherSettings | None = None
) -> AsyncIterator[Dispatcher]:
    dispatcher = Dispatcher(queue, teachers, settings)
    task = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        dispatcher.stop()
        await task


async def enqueue(queue: JobQueue, *jobs: ScoringJob, timeout: float = 3600.0) -> None:
    for job in jobs:
        payload = job_to_message(job).SerializeToString()
        await queue.enqueue(
            QueuedJob(job.id, job.run_id, job.tokens_computed, payload, timeout=timeout)
        )


async def submit(queue: JobQueue, *job_ids: str, tokens: int = 4, timeout: float = 3600.0) -> None:
    await enqueue(queue, *(make_job(job_id, tokens) for job_id in job_ids), timeout=timeout)


async def ended(queue: JobQueue, job_id: str) -> Outcome:
    outcome = await queue.wait_outcome(job_id, timeout=240.0)
    assert outcome is not None
    return outcome


async def result_of(queue: JobQueue, job: ScoringJob) -> ScoringResult:
    outcome = await ended(queue, job.id)
    assert outcome.state is JobState.DONE, error_of(outcome)
    return result_from_message(scoring_pb2.ScoreResponse.FromString(outcome.body), job)


def error_of(outcome: Outcome) -> CounterhintError:
    return failure_from_message(scoring_pb2.Failure.FromString(outcome.body))


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Returns when the condition holds; the bound only keeps a broken test from hanging."""
    async with asyncio.timeout(240.0):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)
