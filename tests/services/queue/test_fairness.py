"""Who is served next: weights, priorities, aging and a run that floods, on both queues."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest

from counterhint.errors import EngineFailure, InvalidJob, Unavailable
from services.queue.base import JobQueue
from services.queue.records import Claim, JobState, QueuedJob, QueueSettings, RunPolicy

OpenQueue = Callable[[QueueSettings], JobQueue]
CRASH = Unavailable("the engine died", reason="ENGINE_DIED")
NO_AGING = QueueSettings(aging_seconds=3600.0)


def job(job_id: str, run_id: str, cost: int = 10, priority: int = 0) -> QueuedJob:
    return QueuedJob(job_id, run_id, cost, b"payload", priority=priority)


def on_queue(
    open_queue: OpenQueue,
    test: Callable[[JobQueue], Awaitable[None]],
    settings: QueueSettings = NO_AGING,
) -> None:
    async def run() -> None:
        async with open_queue(settings) as queue:
            await test(queue)

    asyncio.run(run())


async def claim(queue: JobQueue) -> Claim:
    claimed = await queue.claim("worker")
    assert claimed is not None
    return claimed


async def claim_all(queue: JobQueue) -> list[str]:
    """The ids of all jobs in the order in which they are handed out."""
    ids = []
    while (claimed := await queue.claim("worker")) is not None:
        ids.append(claimed.id)
    return ids


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (0.5, 2.0)])
def test_while_both_have_work_a_flooding_run_gets_its_weight_and_no_more(
    open_queue: OpenQueue, weights: tuple[float, float]
) -> None:
    seeded = random.Random(1)
    quiet_jobs, flood_jobs = 30, 3000

    async def test(queue: JobQueue) -> None:
        policies = {
            name: RunPolicy(weight)
            for name, weight in zip(("flood", "quiet"), weights, strict=True)
        }
        submitted = [("flood", number) for number in range(flood_jobs)]
        submitted += [("quiet", number) for number in range(quiet_jobs)]
        seeded.shuffle(submitted)
        await asyncio.gather(
            *(
                queue.enqueue(job(f"{run} {number}", run, seeded.randint(50, 150)), policies[run])
                for run, number in submitted
            )
        )
        tokens = {"flood": 0, "quiet": 0}
        left = {"flood": flood_jobs, "quiet": quiet_jobs}

        async def work(worker: str) -> None:
            while min(left.values()) > 0:
                claimed = await queue.claim(worker)
                assert claimed is not None
                left[claimed.run_id] -= 1
                if min(left.values()) > 0:
                    tokens[claimed.run_id] += claimed.cost
                await asyncio.sleep(0.001 * seeded.random())
                assert await queue.complete(claimed, b"response")

        await asyncio.gather(*(work(f"worker {number}") for number in range(4)))
        share = tokens["flood"] / sum(tokens.values())
        assert share == pytest.approx(weights[0] / sum(weights), rel=0.1)

    on_queue(open_queue, test)


async def jobs_in_between(queue: JobQueue, *, flooded: bool) -> list[int]:
    """For each job of run `quiet`: how many others were handed out while it was queued."""
    waits, handed_out, backlog = [], 0, {}
    served = asyncio.Event()
    if flooded:
        await asyncio.gather(
            *(queue.enqueue(job(f"flood {number}", "flood")) for number in range(2000))
        )

    async def work(worker: str) -> None:
        nonlocal handed_out
        while len(waits) < 20:
            claimed = await queue.claim(worker, timeout=0.05)
            if claimed is None:
                continue
            if claimed.run_id == "quiet":
                waits.append(handed_out - backlog.pop(claimed.id))
                served.set()
            handed_out += 1
            await asyncio.sleep(0.001)
            await queue.complete(claimed, b"response")

    async def submit(name: str) -> None:
        await queue.enqueue(job(name, "quiet"))
        backlog[name] = handed_out  # calls return in the order in which they took effect

    async def submit_bursts() -> None:
        for burst in range(5):
            await asyncio.gather(*(submit(f"quiet {burst} {number}") for number in range(4)))
            while backlog:
                served.clear()
                await served.wait()

    await asyncio.gather(submit_bursts(), *(work(f"worker {number}") for number in range(2)))
    return waits


def test_a_quiet_run_waits_at_most_twice_as_long_beside_a_flood_and_one_job(
    open_queue: OpenQueue,
) -> None:
    p95 = {}
    for flooded in (False, True):

        async def test(queue: JobQueue, flooded: bool = flooded) -> None:
            waits = await jobs_in_between(queue, flooded=flooded)
            p95[flooded] = sorted(waits)[18]  # of 20

        on_queue(open_queue, test)
    assert p95[True] <= 2 * p95[False] + 1


def test_a_flood_is_one_job_ahead_of_a_new_run_at_most(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for number in range(200):
            await queue.enqueue(job(f"flood {number}", "flood"))
        for number in range(50):
            await claim(queue)
            await queue.enqueue(job(f"quiet {number}", "quiet"))
            runs = [(await claim(queue)).run_id for _ in range(2)]
            assert "quiet" in runs

    on_queue(open_queue, test)


def test_a_higher_priority_is_served_first_in_its_run_and_between_runs(
    open_queue: OpenQueue,
) -> None:
    async def test(queue: JobQueue) -> None:
        for number, (run, priority) in enumerate(
            [("a", 0), ("b", 1), ("a", 3), ("b", 0), ("a", 1), ("a", 3), ("a", 0)]
        ):
            await queue.enqueue(job(f"{run}{priority} {number}", run, priority=priority))
        order = await claim_all(queue)
        assert [name.split()[0] for name in order] == ["a3", "a3", "a1", "b1", "a0", "b0", "a0"]
        assert order[:2] == ["a3 2", "a3 5"]

    on_queue(open_queue, test)


def test_what_a_run_takes_in_one_level_does_not_count_in_another(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for number in range(5):
            await queue.enqueue(job(f"a urgent {number}", "a", priority=3))
        assert len(await claim_all(queue)) == 5
        await queue.enqueue(job("a", "a"))
        await queue.enqueue(job("b", "b"))
        assert await claim_all(queue) == ["a", "b"]

    on_queue(open_queue, test)


def test_a_job_given_back_is_first_in_its_level_whatever_comes_later(
    open_queue: OpenQueue,
) -> None:
    async def test(queue: JobQueue) -> None:
        for number in range(3):
            await queue.enqueue(job(f"low {number}", "run"))
        first, second = await claim(queue), await claim(queue)
        await queue.enqueue(job("high", "run", priority=2))
        await queue.enqueue(job("low 3", "run"))
        await queue.release(second)
        await queue.fail(first, CRASH, retryable=True)
        assert await claim_all(queue) == ["high", "low 0", "low 1", "low 2", "low 3"]

    on_queue(open_queue, test)


def test_a_delivery_that_comes_back_costs_its_run_nothing(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for run in ("a", "b"):
            await queue.enqueue(job(f"{run} 1", run), RunPolicy(0.5))
            await queue.enqueue(job(f"{run} 2", run))
        await queue.fail(await claim(queue), CRASH, retryable=True)
        assert (await queue.stats())[0].tokens == 0
        await queue.release(await claim(queue))
        assert await claim_all(queue) == ["a 1", "b 1", "a 2", "b 2"]
        assert [run.tokens for run in await queue.stats()] == [20, 20]

    on_queue(open_queue, test)


def test_a_job_that_ends_badly_is_charged_once(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("dead", "dead"))
        for _ in range(3):
            await queue.fail(await claim(queue), CRASH, retryable=True)
        await queue.enqueue(job("failed", "failed"))
        broken = EngineFailure("not a number", reason="NOT_FINITE")
        await queue.fail(await claim(queue), broken, retryable=False)
        assert [(run.run_id, run.tokens) for run in await queue.stats()] == [
            ("dead", 10),
            ("failed", 10),
        ]

    on_queue(open_queue, test)


def test_a_job_that_waits_rises_until_none_is_before_it_that_came_later(
    open_queue: OpenQueue,
) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("low", "patient"))
        await queue.enqueue(job("other", "patient", priority=1))
        await asyncio.sleep(0.5)  # more than three steps
        await queue.reap()
        for _ in range(3):
            await asyncio.sleep(0.15)
            await queue.reap()
        for number in range(50):
            await queue.enqueue(job(f"urgent {number}", "busy", priority=3))
        first = [(await claim(queue)).id for _ in range(4)]
        assert {"low", "other"} <= set(first)

    on_queue(open_queue, test, QueueSettings(aging_seconds=0.1))


def test_a_claim_alone_lets_jobs_rise(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("low", "patient"))
        for number in range(20):
            await queue.enqueue(job(f"urgent {number}", "busy", priority=2))
        order = []
        while "low" not in order:  # with strict priorities alone it would be the last
            await asyncio.sleep(0.06)
            order.append((await claim(queue)).id)
            await queue.enqueue(job(f"more {len(order)}", "busy", priority=2))
        assert (await queue.job("low")).priority == 0

    on_queue(open_queue, test, QueueSettings(aging_seconds=0.1))


def test_a_job_that_was_given_back_rises_like_any_other(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        await queue.enqueue(job("back", "run"))
        await queue.release(await claim(queue))
        for _ in range(4):
            await asyncio.sleep(0.1)
            await queue.reap()
        await queue.enqueue(job("low", "run"))
        await queue.enqueue(job("urgent", "run", priority=3))
        order = [await claim(queue) for _ in range(3)]
        assert order[0].id == "back"
        for claimed in order:
            assert await queue.complete(claimed, b"response")
        (run,) = await queue.stats()
        assert (run.queued, run.claimed, run.bytes, run.done) == (0, 0, 0, 3)

    on_queue(open_queue, test, QueueSettings(aging_seconds=0.05))


@pytest.mark.parametrize("priority", [-1, 4, 2**31 - 1])
def test_a_priority_that_is_no_level_is_refused(open_queue: OpenQueue, priority: int) -> None:
    async def test(queue: JobQueue) -> None:
        with pytest.raises(InvalidJob, match=f"priority {priority}; give 0 to 3") as refusal:
            await queue.enqueue(job("a", "run", priority=priority))
        assert refusal.value.reason == "PRIORITY_OUT_OF_RANGE"
        assert await queue.stats() == []

    on_queue(open_queue, test)


def test_a_priority_above_the_run_s_ceiling_is_refused(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        policy = RunPolicy(max_priority=1)
        with pytest.raises(InvalidJob, match="up to 1") as refusal:
            await queue.enqueue(job("a", "run", priority=2), policy)
        assert refusal.value.reason == "PRIORITY_TOO_HIGH"
        with pytest.raises(InvalidJob):
            await queue.enqueue(job("a", "run", priority=2))
        assert await queue.enqueue(job("a", "run", priority=1)) is JobState.QUEUED
        assert await queue.enqueue(job("b", "other", priority=2)) is JobState.QUEUED

    on_queue(open_queue, test)


def test_a_weight_counts_from_the_next_claim(open_queue: OpenQueue) -> None:
    async def test(queue: JobQueue) -> None:
        for number in range(30):
            await queue.enqueue(job(f"a {number}", "a"))
            await queue.enqueue(job(f"b {number}", "b"))

        async def next_runs(number: int) -> Sequence[str]:
            return [(await claim(queue)).run_id for _ in range(number)]

        assert (await next_runs(10)).count("a") == 5
        await queue.set_policy("a", RunPolicy(weight=4.0))
        assert (await next_runs(20)).count("a") == 16

    on_queue(open_queue, test)
