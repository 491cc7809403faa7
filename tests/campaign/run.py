"""One campaign run: a system, its schedule, and the history of it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from counterhint.client import AsyncScoringClient
from counterhint.errors import JobNotFound
from counterhint.jobs import ScoringJob
from services.queue.base import JobQueue
from services.queue.errors import NOT_NOW
from services.queue.records import JobState
from services.queue.redis_streams import RedisQueue
from tests.campaign.audit import final_of, find_leftovers
from tests.campaign.contents import make_content, scripted_scores
from tests.campaign.history import Blow, Cancel, History, Reference, Sighting, read_calls
from tests.campaign.schedule import LONG, Fault, FaultKind, Schedule
from tests.campaign.system import LEASE_SECONDS, System

T = TypeVar("T")

READY_SECONDS = 180.0
LONGEST_RUN = 2 * LONG
"""Seconds after which trainers are no longer waited for: what is not answered by then is lost."""
SETTLE_SECONDS = 20.0
"""How long jobs that nobody waits for have to end."""
LOOK_SECONDS = 0.1
STALL_SECONDS = LEASE_SECONDS / 3
RETRY_SECONDS = 0.1

Scores = Callable[[ScoringJob], NDArray[np.float32]]
"""What is right for a job, `[N]`."""


def make_references(schedule: Schedule, scores: Scores) -> dict[tuple[str, int], Reference]:
    """What is right for everything that a schedule sends."""
    references = {}
    for one in schedule.submissions:
        job = make_content(one.job, one.run, one.content)
        references[one.job, one.content] = Reference(
            run=one.run,
            scores=() if one.job.startswith("invalid ") else tuple(scores(job).tolist()),
            tokens_computed=job.tokens_computed,
            tokens_naive=job.tokens_naive,
        )
    return references


async def run_campaign(
    schedule: Schedule, folder: Path, model: Path | None = None, scores: Scores = scripted_scores
) -> History:
    """Runs a schedule.

    Args:
        schedule: what happens.
        folder: an empty one for sockets, logs and data, with a short path.
        model: the real teacher's, when the schedule has one.
        scores: what is right for a job.
    """
    system = System(schedule, folder, model)
    history = History(make_references(schedule, scores))
    try:
        await asyncio.to_thread(system.start)
        async with AsyncScoringClient(system.intake) as client:
            await client.get_teacher(timeout=READY_SECONDS)
        async with RedisQueue(system.redis.url) as queue:
            await _live_through(system, queue, history)
            await _audit(system, queue, history)
    finally:
        system.end()
    for log in system.trainer_logs():
        history.calls += read_calls(log.read_text(encoding="utf-8").splitlines(), system.killed)
    history.blows, history.broken = system.blows, system.broken
    return history


async def _live_through(system: System, queue: JobQueue, history: History) -> None:
    """Starts the trainers, lets the faults happen, and waits until trainers and jobs are done."""
    system.begin()
    jobs = sorted({one.job for one in system.schedule.submissions})
    tending = asyncio.create_task(system.tend())
    looking = asyncio.create_task(_look(system, queue, jobs, history))
    try:
        async with asyncio.TaskGroup() as faults:
            for fault in system.schedule.faults:
                faults.create_task(_happen(system, queue, fault, history))
        while not system.trainers_done and system.now < LONGEST_RUN:  # noqa: ASYNC110
            await asyncio.sleep(RETRY_SECONDS)
        await _settle(queue)
    finally:
        for task in (tending, looking):
            task.cancel()
        for task in (tending, looking):
            with suppress(asyncio.CancelledError):
                await task


async def _happen(system: System, queue: JobQueue, fault: Fault, history: History) -> None:
    await asyncio.sleep(max(0.0, fault.at - system.now))
    match fault.kind:
        case FaultKind.CANCEL_JOB:
            await _cancel(system, history, partial(queue.cancel, fault.target), job=fault.target)
        case FaultKind.CANCEL_RUN:
            await _cancel(system, history, partial(queue.purge, fault.target), run=fault.target)
        case _:
            await system.strike(fault)


async def _cancel(
    system: System,
    history: History,
    cancel: Callable[[], Awaitable[JobState | int]],
    *,
    job: str | None = None,
    run: str | None = None,
) -> None:
    asked = system.now
    try:
        answer = await _when_it_can(cancel)
    except JobNotFound:
        answer = 0
    state = answer if isinstance(answer, JobState) else None
    history.cancels.append(Cancel(asked, system.now, job, run, state))


async def _look(system: System, queue: JobQueue, jobs: Sequence[str], history: History) -> None:
    """Notes each change of a job's state that it sees, for ever.

    When looking takes so long that a heartbeat could have come too late, the machine has stalled:
    that is noted as well.
    """
    seen: dict[str, JobState | None] = dict.fromkeys(jobs)
    while True:
        begun = system.now
        with suppress(*NOT_NOW):
            states = await asyncio.gather(*(_state_of(queue, job) for job in jobs))
            for job, state in zip(jobs, states, strict=True):
                if state is not seen[job]:
                    seen[job] = state
                    history.sightings.append(Sighting(system.now, job, state))
        await asyncio.sleep(LOOK_SECONDS)
        if system.now - begun > STALL_SECONDS:
            system.blows.append(Blow("stall", "machine", begun, system.now))


async def _state_of(queue: JobQueue, job: str) -> JobState | None:
    try:
        return (await queue.job(job)).state
    except JobNotFound:
        return None


async def _settle(queue: JobQueue) -> None:
    """Returns when no job is unfinished, or when that takes too long."""
    for _ in range(round(SETTLE_SECONDS / RETRY_SECONDS)):
        runs = await _when_it_can(queue.stats)
        if not any(run.queued or run.claimed for run in runs):
            return
        await asyncio.sleep(RETRY_SECONDS)


async def _audit(system: System, queue: JobQueue, history: History) -> None:
    for job in {one.job for one in system.schedule.submissions}:
        final = await _when_it_can(partial(final_of, queue, job))
        if final is not None:
            history.finals[job] = final
    stats = await _when_it_can(queue.stats)
    history.accounts = {run.run_id: run for run in stats}
    history.leftovers = await find_leftovers(system.redis.url, history.accounts)


async def _when_it_can(call: Callable[[], Awaitable[T]]) -> T:
    """The queue's answer, once Redis is there."""
    while True:
        try:
            return await call()
        except NOT_NOW:
            await asyncio.sleep(RETRY_SECONDS)
