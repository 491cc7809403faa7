"""What runs may take, how they are held back, and what is counted for them, on both queues."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from counterhint.errors import EngineFailure, InputError, JobNotFound, Overloaded
from counterhint.jobs import Cost
from services.queue.base import WORK, JobQueue
from services.queue.records import (
    Claim,
    JobState,
    QueuedJob,
    QueueSettings,
    Reaped,
    RunPolicy,
    RunStats,
)
from tests.services.queue.passing_time import end_level, waited_for

OpenQueue = Callable[[QueueSettings], JobQueue]
BROKEN = EngineFailure("not a number", reason="NOT_FINITE")


def job(job_id: str = "a", run_id: str = "run", timeout: float | None = None) -> QueuedJob:
    return QueuedJob(job_id, run_id, 10, b"payload", timeout=timeout)


def on_queue(
    open_queue: OpenQueue,
    test: Callable[[JobQueue], Awaitable[None]],
    settings: QueueSettings | None = None,
) -> None:
    async def run() -> None:
        async with open_queue(settings or QueueSettings()) as queue:
            await test(queue)

    asyncio.run(run())


async def claim(queue: JobQueue) -> Claim:
    claimed = await queue.claim("worker")
    assert claimed is not None
    return claimed


@pytest.mark.parametrize(
    ("policy", "fit", "bound", "limit"),
    [
        (RunPolicy(max_jobs=2), 2, "max_run_jobs", "2"),
        (RunPolicy(max_bytes=15), 2, "max_run_bytes", "15"),
        (RunPolicy(max_jobs=10), 3, "max_run_jobs", "3"),  # the queue's own bound is less
        (RunPolicy(max_jobs=0), 0, "max_run_jobs", "0"),
    ],
)
def test_a_run_s_own_bounds_hold_within_the_queue_s(
    open_queue: OpenQueue, policy: RunPolicy, fit: int, bound: str, limit: str
) -> None:
    async def test(queue: JobQueue) -> None:
        for number in range(fit):
            await queue.enqueue(job(f"{number}"), policy)
        with pytest.raises(Overloaded) as refusal:
            await queue.enqueue(job("one too many"), policy)
        assert (refusal.value.details["bound"], refusal.value.details["limit"]) == (bound, limit)
        await queue.enqueue(job("other", "other"))

    on_queue(open_queue, test, QueueSettings(max_run_jobs=3))


def test_a_run_is_shown_with_its_policy(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        plain = await queue.run("run")
        assert (plain.policy, plain.set_by_operator) == (RunPolicy(), False)
        assert plain.stats == RunStats("run", queued=1, bytes=7)
        given = RunPolicy(weight=0.3, max_priority=1, max_jobs=7, max_bytes=1 << 40)
        await queue.enqueue(job("b"), given)
        assert (await queue.run("run")).policy == given
        await queue.enqueue(job("c"))
        assert (await queue.run("run")).policy == given

    on_queue(open_queue, test)


def test_runs_are_listed_as_each_is_shown(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("b", "second"), RunPolicy(weight=0.3, max_jobs=7))
        await queue.enqueue(job("a", "first"))
        await queue.pause("first")
        first, second = await queue.runs()
        assert (first.stats.run_id, first.stats.paused) == ("first", True)
        assert (second.stats.run_id, second.policy.max_jobs) == ("second", 7)
        shown = [await queue.run(name) for name in ("first", "second")]
        ages = [replace(one, stats=replace(one.stats, oldest_seconds=0.0)) for one in shown]
        assert ages == [
            replace(one, stats=replace(one.stats, oldest_seconds=0.0)) for one in (first, second)
        ]

    on_queue(open_queue, test)


def test_an_operator_s_policy_goes_over_the_client_s(open_queue: OpenQueue) -> None:
    theirs, ours = RunPolicy(weight=2.0), RunPolicy(weight=0.5, max_jobs=2)

    async def test(queue: JobQueue) -> None:
        await queue.set_policy("run", ours)  # before its first job
        await queue.enqueue(job("a"), theirs)
        await queue.enqueue(job("b"), theirs)
        record = await queue.run("run")
        assert (record.policy, record.set_by_operator) == (ours, True)
        with pytest.raises(Overloaded):
            await queue.enqueue(job("c"), theirs)
        await queue.set_policy("run", None)
        record = await queue.run("run")
        assert (record.policy, record.set_by_operator) == (theirs, False)
        assert await queue.enqueue(job("c")) is JobState.QUEUED

    on_queue(open_queue, test)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight", 0.0),
        ("weight", -1.0),
        ("weight", float("nan")),
        ("weight", float("inf")),
        ("max_priority", 4),
        ("max_priority", -1),
        ("max_jobs", -1),
        ("max_bytes", -1),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{field} is {value}"):
        replace(RunPolicy(), **{field: value})


def test_a_paused_run_s_jobs_wait_and_its_claims_are_finished(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("a"))
        await queue.enqueue(job("b"))
        under_way = await claim(queue)
        await queue.pause("run")
        await queue.enqueue(job("c"))
        assert await queue.claim("worker") is None
        assert await queue.complete(under_way, b"response")
        await queue.enqueue(job("other", "other"))
        assert (await claim(queue)).id == "other"
        assert (await queue.run("run")).stats.paused
        assert await queue.resume("run")
        assert [(await claim(queue)).id for _ in range(2)] == ["b", "c"]
        assert not await queue.resume("run")

    on_queue(open_queue, test)


def test_resuming_wakes_a_waiting_worker(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        queue.poll_seconds = 3600.0
        await queue.pause("run")
        await queue.enqueue(job())
        worker = asyncio.create_task(queue.claim("worker", timeout=3600.0))
        await waited_for(queue, WORK)
        assert not worker.done()
        await queue.resume("run")
        claimed = await asyncio.wait_for(worker, 120.0)
        assert claimed is not None

    on_queue(open_queue, test)


def test_a_job_given_back_to_a_paused_run_waits_too(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        under_way = await claim(queue)
        await queue.pause("run")
        await queue.release(under_way)
        assert await queue.claim("worker") is None
        await queue.resume("run")
        assert (await claim(queue)).attempt == 2

    on_queue(open_queue, test)


def test_deadlines_and_cancels_go_on_while_a_run_is_paused(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.pause("run")
        await queue.enqueue(job("late", timeout=0.0))
        await queue.enqueue(job("cancelled"))
        await queue.enqueue(job("kept"))
        assert await queue.reap() == Reaped(expired=1)
        assert await queue.cancel("cancelled") is JobState.CANCELLED
        await queue.resume("run")
        assert (await claim(queue)).id == "kept"

    on_queue(open_queue, test)


def test_a_pause_is_no_waiting_time(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.pause("paused")
        await queue.enqueue(job("paused", "paused"))
        await end_level(queue, "paused")
        await queue.reap()
        await queue.enqueue(replace(job("urgent", "urgent"), priority=1))
        await queue.resume("paused")
        assert [(await claim(queue)).id for _ in range(2)] == ["urgent", "paused"]

    on_queue(open_queue, test, QueueSettings(aging_seconds=3600.0))


def test_a_pause_saves_nothing_up(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.pause("a")
        for number in range(20):
            await queue.enqueue(job(f"a {number}", "a"))
            await queue.enqueue(job(f"b {number}", "b"))
        for _ in range(10):
            assert (await claim(queue)).run_id == "b"
        await queue.resume("a")
        assert [(await claim(queue)).run_id for _ in range(8)].count("a") == 4

    on_queue(open_queue, test)


def test_a_pause_outlasts_the_run_s_jobs(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        await queue.pause("run")
        await queue.cancel("a")
        await asyncio.sleep(0.2)
        await queue.enqueue(job("b"))
        assert await queue.claim("worker") is None

    on_queue(open_queue, test, QueueSettings(dead_seconds=0.1))


def test_an_unknown_run_is_an_error(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for operation in (queue.run, queue.resume):
            with pytest.raises(JobNotFound, match="'nobody'") as refusal:
                await operation("nobody")
            assert refusal.value.reason == "RUN_NOT_FOUND"
        await queue.set_policy("nobody", None)
        assert await queue.purge("nobody") == 0
        assert await queue.stats() == []

    on_queue(open_queue, test)


def test_results_are_accounted_for(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for name in "abc":
            await queue.enqueue(job(name))
        await asyncio.sleep(0.05)
        cost = Cost(
            *(100, 40), engine_seconds=0.25, wait_seconds=9e6, pairs_cached=3, tokens_cached=20
        )
        assert await queue.complete(await claim(queue), b"response", cost)
        assert await queue.complete(await claim(queue), b"response", cost)
        assert not await queue.complete(replace(await claim(queue), attempt=9), b"late", cost)
        (run,) = await queue.stats()
        assert (run.tokens_naive, run.tokens_computed, run.engine_seconds) == (200, 80, 0.5)
        assert (run.pairs_cached, run.tokens_cached) == (6, 40)
        assert 2 * 0.04 <= run.wait_seconds < 9e6
        assert run.wait_mean == run.wait_seconds / 2
        assert run.tokens == 30

    on_queue(open_queue, test)


def test_the_wait_of_what_ended_badly_counts_too(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        waits = []
        for name in ("failed", "dead"):
            await queue.enqueue(job(name))
            await asyncio.sleep(0.05)
            await queue.fail(await claim(queue), BROKEN, retryable=name == "dead")
            waits.append((await queue.stats())[0].wait_seconds)
        assert waits[0] >= 0.04
        assert waits[1] >= waits[0] + 0.04

    on_queue(open_queue, test, QueueSettings(max_attempts=1))


def test_a_refused_client_comes_back_when_a_tenth_of_what_waits_is_claimed(
    open_queue: OpenQueue,
) -> None:
    async def refusal(queue: JobQueue, run_id: str) -> float:
        with pytest.raises(Overloaded) as refused:
            await queue.enqueue(job("one too many", run_id))
        return refused.value.retry_after

    async def test(queue: JobQueue) -> None:
        for number in range(10):
            await queue.enqueue(job(f"a {number}", "a"))
        assert await refusal(queue, "a") == 1000.0  # nothing moves: the longest
        await claim(queue)
        # 10 tokens within 10 to 20 s; a tenth of 100 tokens.
        alone = await refusal(queue, "a")
        assert 10.0 <= alone <= 20.1
        for number in range(9):
            await queue.enqueue(job(f"b {number}", "b"))
        await claim(queue)
        await claim(queue)
        # 30 tokens by now; the bound of the run counts the run's tokens.
        assert 3.3 <= await refusal(queue, "a") <= 6.8
        await queue.enqueue(job("b 9", "b"))
        # The bound of the queue counts all 200.
        assert 6.6 <= await refusal(queue, "c") <= 13.5

    settings = QueueSettings(
        max_jobs=20, max_run_jobs=10, retry_after=0.001, max_retry_after=1000.0
    )
    on_queue(open_queue, test, settings)


def test_the_oldest_queued_job_s_age_is_counted_from_its_acceptance(open_queue: OpenQueue) -> None:
    """Neither aging nor a delivery that came back makes a job younger."""

    async def oldest(queue: JobQueue) -> float:
        (stats,) = await queue.stats()
        assert (await queue.run("run")).stats.oldest_seconds >= stats.oldest_seconds
        return stats.oldest_seconds

    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("old"))
        await asyncio.sleep(0.12)
        await queue.enqueue(job("new"))
        await queue.reap()  # the old one rises
        age = await oldest(queue)
        assert age >= 0.1
        taken = await claim(queue)
        assert taken.id == "old"
        await queue.release(taken)
        assert await oldest(queue) >= age
        for _ in range(2):
            await queue.complete(await claim(queue), b"response")
        assert await oldest(queue) == 0.0

    on_queue(open_queue, test, QueueSettings(aging_seconds=0.1))


def test_the_oldest_job_is_another_once_the_first_is_claimed(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("old"))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await queue.enqueue(job("new"))
        assert (await claim(queue)).id == "old"
        (stats,) = await queue.stats()
        # The new one is no older than it can be; half of the old one's start is for clocks' grain.
        assert stats.oldest_seconds <= time.monotonic() - began + 0.15

    on_queue(open_queue, test)
