"""What every queue promises, in process and on a real Redis."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from counterhint.errors import (
    EngineFailure,
    JobConflict,
    JobNotFound,
    Overloaded,
    Unavailable,
    failure_from_message,
)
from counterhint.jobs import TeacherInfo
from counterhint.request_context import TraceContext
from counterhint.v1 import scoring_pb2
from services.queue.base import WORK, JobQueue
from services.queue.records import (
    Claim,
    JobState,
    Outcome,
    QueuedJob,
    QueueSettings,
    Reaped,
    RunStats,
)
from tests.services.queue.passing_time import end_lease, waited_for

OpenQueue = Callable[[QueueSettings], JobQueue]
CRASH = Unavailable("the engine died", reason="ENGINE_DIED")
BROKEN = EngineFailure("not a number", reason="NOT_FINITE")
TEACHER = TeacherInfo("model", "r0", "f" * 64, 32, 128, 8, "transformers", "1", 1000)


def job(
    job_id: str = "a",
    run_id: str = "run",
    cost: int = 10,
    payload: bytes = b"payload",
    timeout: float | None = None,
) -> QueuedJob:
    return QueuedJob(job_id, run_id, cost, payload, timeout=timeout)


def on_queue(
    open_queue: OpenQueue,
    test: Callable[[JobQueue], Awaitable[None]],
    queue_settings: QueueSettings | None = None,
) -> None:
    async def run() -> None:
        async with open_queue(queue_settings or QueueSettings()) as queue:
            await test(queue)

    asyncio.run(run())


async def claim(queue: JobQueue, worker: str = "worker") -> Claim:
    claimed = await queue.claim(worker)
    assert claimed is not None
    return claimed


async def outcome(queue: JobQueue, job_id: str = "a") -> Outcome:
    ended = await queue.outcome(job_id)
    assert ended is not None
    return ended


def reason_of(ended: Outcome) -> str:
    return failure_from_message(scoring_pb2.Failure.FromString(ended.body)).reason


def test_a_note_is_kept_with_the_outcome_and_is_part_of_the_job(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        noted = replace(job(), note=b"what was asked")
        await queue.enqueue(noted)
        (run,) = await queue.stats()
        assert run.bytes == len(b"payload") + len(b"what was asked")
        assert await queue.complete(await claim(queue), b"response")
        assert (await outcome(queue)).body == b"response"
        assert await queue.note("a") == b"what was asked"
        assert await queue.enqueue(noted) is JobState.DONE
        for other in (job(), replace(job(), note=b"something else")):
            with pytest.raises(JobConflict):
                await queue.enqueue(other)
        (run,) = await queue.stats()
        assert run.bytes == 0
        with pytest.raises(JobNotFound):
            await queue.note("b")

    on_queue(open_queue, test)


def test_a_job_goes_from_client_to_worker_and_its_result_back(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        assert await queue.enqueue(job(timeout=60.0)) is JobState.QUEUED
        assert await queue.outcome("a") is None
        claimed = await claim(queue)
        assert (claimed.id, claimed.run_id, claimed.cost) == ("a", "run", 10)
        assert (claimed.attempt, claimed.payload) == (1, b"payload")
        assert 0.0 < claimed.timeout <= 60.0
        assert await queue.claim("worker") is None
        assert await queue.complete(claimed, b"response")
        ended = await outcome(queue)
        assert (ended.state, ended.body) == (JobState.DONE, b"response")

    on_queue(open_queue, test)


def test_a_waiting_client_and_a_waiting_worker_are_woken(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        queue.poll_seconds = 3600.0  # only the announcement can be in time
        worker = asyncio.create_task(queue.claim("worker", timeout=3600.0))
        await waited_for(queue, WORK)
        await queue.enqueue(job())
        client = asyncio.create_task(queue.wait_outcome("a", timeout=3600.0))
        claimed = await asyncio.wait_for(worker, 120.0)
        assert claimed is not None
        await waited_for(queue, "a")
        await queue.complete(claimed, b"response")
        ended = await asyncio.wait_for(client, 120.0)
        assert ended is not None
        assert ended.body == b"response"

    on_queue(open_queue, test)


def test_waiting_ends_with_its_time_out(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        assert await queue.wait_outcome("a", timeout=0.05) is None

    on_queue(open_queue, test)


def test_an_unknown_job_is_an_error_everywhere(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for operation in (queue.outcome, queue.cancel, queue.job, queue.retry):
            with pytest.raises(JobNotFound, match="'nobody'"):
                await operation("nobody")
        with pytest.raises(JobNotFound):
            await queue.wait_outcome("nobody", timeout=5.0)

    on_queue(open_queue, test)


def test_submitting_twice_is_one_job(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        assert await queue.enqueue(job()) is JobState.QUEUED
        claimed = await claim(queue)
        assert await queue.enqueue(job()) is JobState.CLAIMED
        assert await queue.claim("other") is None
        await queue.complete(claimed, b"response")
        assert await queue.enqueue(job()) is JobState.DONE
        assert await queue.claim("other") is None

    on_queue(open_queue, test)


def test_an_id_with_other_content_is_a_conflict(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        with pytest.raises(JobConflict, match="'a'"):
            await queue.enqueue(job(payload=b"other"))
        await queue.complete(await claim(queue), b"response")
        with pytest.raises(JobConflict):
            await queue.enqueue(job(payload=b"other"))

    on_queue(open_queue, test)


@pytest.mark.parametrize(
    ("bound", "bounds"),
    [
        ("max_jobs", QueueSettings(max_jobs=2)),
        ("max_bytes", QueueSettings(max_bytes=20)),
        ("max_run_jobs", QueueSettings(max_run_jobs=2)),
        ("max_run_bytes", QueueSettings(max_run_bytes=20)),
    ],
)
def test_a_full_queue_refuses_with_the_bound_and_a_delay(
    open_queue: OpenQueue, bound: str, bounds: QueueSettings
) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("a"))
        await queue.enqueue(job("b"))
        first = await claim(queue)
        with pytest.raises(Overloaded, match=bound) as refusal:
            await queue.enqueue(job("c"))
        assert 1.0 <= refusal.value.retry_after <= 30.0
        assert refusal.value.details["bound"] == bound
        if bound.startswith("max_run"):
            await queue.enqueue(job("d", run_id="other"))
        await queue.complete(first, b"response")
        assert await queue.enqueue(job("c")) is JobState.QUEUED

    on_queue(open_queue, test, bounds)


def test_a_lost_lease_goes_to_another_worker_and_the_late_result_is_discarded(
    open_queue: OpenQueue,
) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        paused = await claim(queue, "paused")
        assert await queue.reap() == Reaped(redelivered=1)
        taken_over = await claim(queue, "other")
        assert taken_over.attempt == 2
        assert await queue.heartbeat([paused]) == {"a"}
        assert not await queue.complete(paused, b"late")
        assert not await queue.fail(paused, BROKEN, retryable=False)
        assert not await queue.release(paused)
        assert await queue.complete(taken_over, b"in time")
        assert not await queue.complete(paused, b"late")
        assert (await outcome(queue)).body == b"in time"

    on_queue(open_queue, test, QueueSettings(lease_seconds=0.0))


def test_a_heartbeat_keeps_the_lease(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("kept"))
        await queue.enqueue(job("left"))
        kept, left = await claim(queue), await claim(queue)
        assert await queue.reap() == Reaped()
        for held in (kept, left):
            await end_lease(queue, held.id)
        assert await queue.heartbeat([kept]) == set()
        assert await queue.reap() == Reaped(redelivered=1)
        assert await queue.heartbeat([kept, left]) == {"left"}
        assert await queue.complete(kept, b"response")

    on_queue(open_queue, test, QueueSettings(lease_seconds=3600.0))


def test_a_job_that_fails_three_times_is_put_aside_and_can_be_retried(
    open_queue: OpenQueue,
) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("poison"))
        await queue.enqueue(job("sound"))
        for attempt in (1, 2, 3):
            poison = await claim(queue)
            assert (poison.id, poison.attempt) == ("poison", attempt)
            assert await queue.fail(poison, CRASH, retryable=True)
        ended = await outcome(queue, "poison")
        assert (ended.state, reason_of(ended)) == (JobState.DEAD, "DEAD_LETTER")
        assert [(dead.id, dead.failures, dead.reason) for dead in await queue.dead()] == [
            ("poison", 3, "ENGINE_DIED")
        ]
        assert await queue.complete(await claim(queue), b"sound")
        assert await queue.enqueue(job("poison")) is JobState.DEAD

        assert not await queue.retry("sound")
        assert await queue.retry("poison")
        assert await queue.dead() == []
        again = await claim(queue)
        assert (again.id, again.attempt, again.payload) == ("poison", 4, b"payload")
        assert await queue.fail(again, CRASH, retryable=True)
        again = await claim(queue)  # it has three tries again
        assert await queue.complete(again, b"response")
        assert (await outcome(queue, "poison")).state is JobState.DONE
        (run,) = await queue.stats()
        assert (run.done, run.dead, run.bytes, run.tokens) == (2, 0, 0, 30)  # of four deliveries

    on_queue(open_queue, test)


def test_a_worker_that_dies_each_time_puts_the_job_aside_as_well(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        for expected in (Reaped(redelivered=1), Reaped(redelivered=1), Reaped(dead=1)):
            await claim(queue)
            assert await queue.reap() == expected
        assert (await queue.job("a")).reason == "LEASE_LOST"

    on_queue(open_queue, test, QueueSettings(lease_seconds=0.0))


def test_a_lasting_failure_is_the_outcome_until_the_job_is_sent_again(
    open_queue: OpenQueue,
) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        assert await queue.fail(await claim(queue), BROKEN, retryable=False)
        ended = await outcome(queue)
        assert (ended.state, reason_of(ended)) == (JobState.FAILED, "NOT_FINITE")
        assert await queue.enqueue(job()) is JobState.QUEUED
        assert (await queue.job("a")).reason == ""
        assert (await claim(queue)).attempt == 2

    on_queue(open_queue, test)


def test_a_job_that_is_sent_again_outlives_its_failure(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        await queue.fail(await claim(queue), BROKEN, retryable=False)
        await queue.enqueue(job())
        again = await claim(queue)
        await asyncio.sleep(0.4)  # the failure's time is over
        await queue.reap()
        assert await queue.complete(again, b"response")

    on_queue(open_queue, test, QueueSettings(result_seconds=0.3))


def test_a_worker_s_own_earlier_claim_is_as_lost_as_another_s(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        first = await claim(queue)
        await queue.reap()
        second = await claim(queue)
        assert not await queue.complete(first, b"late")
        assert await queue.complete(second, b"in time")

    on_queue(open_queue, test, QueueSettings(lease_seconds=0.0))


def test_a_released_job_s_tokens_are_given_back_to_its_run(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for name in ("a", "b"):
            await queue.enqueue(job(f"{name} 1", name))
            await queue.enqueue(job(f"{name} 2", name))
        assert await queue.release(await claim(queue))
        assert [(await claim(queue)).id for _ in range(4)] == ["a 1", "b 1", "a 2", "b 2"]

    on_queue(open_queue, test)


def test_a_dead_job_is_forgotten_after_its_time(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        await queue.fail(await claim(queue), CRASH, retryable=True)
        await asyncio.sleep(0.4)
        assert await queue.dead() == []
        await queue.reap()
        with pytest.raises(JobNotFound):
            await queue.retry("a")

    on_queue(open_queue, test, QueueSettings(max_attempts=1, dead_seconds=0.3))


def test_released_jobs_come_first_again_and_are_not_counted(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for name in "abcd":
            await queue.enqueue(job(name))
        first, second = await claim(queue), await claim(queue)
        assert await queue.release(second)
        assert await queue.release(first)
        order = [await claim(queue, "other") for _ in range(4)]
        assert [claimed.id for claimed in order] == ["a", "b", "c", "d"]
        assert (await queue.job("a")).failures == 0
        assert (await queue.stats())[0].tokens == 40

    on_queue(open_queue, test)


def test_cancelling_ends_a_job_wherever_it_is(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for name in ("claimed", "queued", "done"):
            await queue.enqueue(job(name))
        claimed = await claim(queue)
        assert await queue.cancel("claimed") is JobState.CANCELLED
        assert await queue.cancel("queued") is JobState.CANCELLED
        assert not await queue.complete(claimed, b"late")
        assert await queue.complete(await claim(queue), b"done")
        assert await queue.cancel("done") is JobState.DONE
        assert await queue.claim("worker") is None
        assert reason_of(await outcome(queue, "queued")) == "CANCELLED"

    on_queue(open_queue, test)


def test_a_job_past_its_deadline_is_never_handed_out(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("late", timeout=0.0))
        await queue.enqueue(job("later", timeout=0.0))
        await queue.enqueue(job("in time"))
        assert (await claim(queue)).id == "in time"
        assert reason_of(await outcome(queue, "late")) == "DEADLINE_EXCEEDED"
        assert (await outcome(queue, "later")).state is JobState.EXPIRED
        await queue.enqueue(job("late", timeout=0.0))
        assert await queue.reap() == Reaped(expired=1)
        await queue.enqueue(job("late", timeout=0.0))
        await queue.enqueue(job("late", timeout=30.0))  # the later deadline counts
        assert await queue.reap() == Reaped()
        assert (await claim(queue)).id == "late"

    on_queue(open_queue, test)


def test_an_outcome_is_forgotten_after_its_time(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job())
        await queue.complete(await claim(queue), b"response")
        await asyncio.sleep(0.1)
        await queue.reap()
        with pytest.raises(JobNotFound):
            await queue.outcome("a")
        assert await queue.enqueue(job(payload=b"other content")) is JobState.QUEUED

    on_queue(open_queue, test, QueueSettings(result_seconds=0.05))


def test_runs_share_by_tokens_not_by_jobs(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for number in range(100):
            await queue.enqueue(job(f"large {number}", "large", cost=100))
        for number in range(100):
            await queue.enqueue(job(f"small {number}", "small", cost=25))
        tokens: Counter[str] = Counter()
        for _ in range(100):
            claimed = await claim(queue)
            tokens[claimed.run_id] += claimed.cost
            await queue.complete(claimed, b"response")
        assert abs(tokens["large"] - tokens["small"]) <= 100

    on_queue(open_queue, test)


def test_an_idle_run_saves_nothing_up_and_is_served_at_once(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("early", "quiet"))
        await claim(queue)
        for number in range(20):
            await queue.enqueue(job(f"busy {number}", "busy"))
        for _ in range(10):
            assert (await claim(queue)).run_id == "busy"
        for number in range(10):
            await queue.enqueue(job(f"quiet {number}", "quiet"))
        runs = [(await claim(queue)).run_id for _ in range(10)]
        assert "quiet" in runs[:2]
        assert 4 <= runs.count("quiet") <= 6

    on_queue(open_queue, test)


def test_a_run_does_not_gain_by_submitting_one_job_at_a_time(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for number in range(20):
            await queue.enqueue(job(f"busy {number}", "busy"))
        served: Counter[str] = Counter()
        await queue.enqueue(job("drip 0", "drip"))
        for number in range(1, 20):
            claimed = await claim(queue)
            served[claimed.run_id] += 1
            if claimed.run_id == "drip":
                await queue.enqueue(job(f"drip {number}", "drip"))
        assert abs(served["busy"] - served["drip"]) <= 1

    on_queue(open_queue, test)


def test_stats_count_each_run(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        assert await queue.stats() == []
        for name in ("a", "b", "c", "d"):
            await queue.enqueue(job(name, "first", payload=b"12345"))
        await queue.enqueue(job("e", "second", payload=b"123"))
        await queue.complete(await claim(queue), b"response")
        await claim(queue)
        await queue.cancel("d")
        assert [replace(run, wait_seconds=0.0) for run in await queue.stats()] == [
            RunStats("first", queued=2, bytes=10, done=1, cancelled=1, tokens=10),
            RunStats("second", claimed=1, bytes=3, tokens=10),
        ]

    on_queue(open_queue, test)


def test_purging_removes_a_run_s_jobs_only(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("dead", "mine"))
        await queue.fail(await claim(queue), CRASH, retryable=True)
        await queue.enqueue(job("claimed", "mine"))
        await queue.enqueue(job("queued", "mine"))
        claimed = await claim(queue)
        await queue.enqueue(job("other", "yours"))
        assert await queue.purge("mine") == 3
        assert await queue.dead() == []
        assert not await queue.complete(claimed, b"late")
        assert reason_of(await outcome(queue, "queued")) == "CANCELLED"
        assert (await claim(queue)).id == "other"
        assert await queue.purge("mine") == 0

    on_queue(open_queue, test, QueueSettings(max_attempts=1))


def test_a_job_of_no_bytes_and_no_cost_is_settled_like_any(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job(cost=0, payload=b""))
        assert await queue.release(await claim(queue))
        assert await queue.fail(await claim(queue), BROKEN, retryable=False)
        (run,) = await queue.stats()
        assert replace(run, wait_seconds=0.0) == RunStats("run", failed=1)

    on_queue(open_queue, test)


def test_purging_a_run_whose_dead_jobs_are_forgotten_leaves_its_counts(
    open_queue: OpenQueue,
) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("dead"))
        await queue.fail(await claim(queue), CRASH, retryable=True)
        await asyncio.sleep(0.4)
        before = await queue.stats()
        assert await queue.purge("run") == 0
        assert await queue.stats() == before
        await queue.enqueue(job("queued"))
        (run,) = await queue.stats()
        assert run.queued == 1
        assert run.dead >= 0

    on_queue(open_queue, test, QueueSettings(max_attempts=1, dead_seconds=0.3))


def test_the_teacher_is_known_while_it_is_published(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        assert await queue.teacher() is None
        await queue.publish_teacher(TEACHER, seconds=60.0)
        assert await queue.teacher() == TEACHER
        await queue.publish_teacher(TEACHER, seconds=0.1)
        await asyncio.sleep(0.2)
        assert await queue.teacher() is None

    on_queue(open_queue, test)


def test_who_asks_travels_beside_the_payload_and_the_first_one_stays(open_queue: OpenQueue) -> None:
    first = TraceContext("first", f"00-{'1' * 32}-{'2' * 16}-01")

    async def test(queue: JobQueue) -> None:
        await queue.enqueue(replace(job(), trace=first))
        await queue.enqueue(replace(job(), trace=TraceContext("second")))
        taken = await claim(queue)
        assert taken.trace == first
        await queue.release(taken)
        taken = await claim(queue)
        assert taken.trace == first
        await queue.fail(taken, BROKEN, retryable=False)
        await queue.enqueue(replace(job(), trace=TraceContext("anew")))
        assert (await claim(queue)).trace == TraceContext("anew")
        await queue.enqueue(job("without"))
        assert (await claim(queue)).trace == TraceContext()

    on_queue(open_queue, test)
