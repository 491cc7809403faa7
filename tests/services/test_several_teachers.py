"""One dispatcher before several teachers: where jobs go, in parts or whole, and what is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from counterhint.jobs import ScoringJob, pairs_array
from services.dispatcher import DispatcherSettings
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.records import JobState, QueueSettings
from tests.services.dispatching import (
    dispatching,
    ended,
    enqueue,
    error_of,
    result_of,
    submit,
    until,
)
from tests.services.prefix_cache import PrefixCache, run_jobs
from tests.services.scripted_teacher import ScriptedTeacher, expected_scores, make_job, serving

SMALL_PARTS = DispatcherSettings(max_part_tokens=150)


@pytest.fixture
def addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The same at each run: they decide which teacher gets which group."""
    monkeypatch.chdir(tmp_path)
    return ["unix:one.sock", "unix:two.sock"]


def group_job(job_id: str, group: int, hints: int = 3, tokens: int = 4) -> ScoringJob:
    """A job of contexts of 50 tokens that begin with the same 40, unlike any other group's."""
    rng = np.random.default_rng(group)
    problem = rng.integers(3, 64, 40)
    contexts = [np.append(problem, rng.integers(3, 64, 10)) for _ in range(hints)]
    return replace(
        make_job(job_id, tokens),
        contexts=tuple(context.astype(np.int32) for context in contexts),
        pairs=pairs_array([(context, 0) for context in range(hints)]),
    )


def large_job(job_id: str) -> ScoringJob:
    """Six contexts with shares of 70 tokens: with `SMALL_PARTS`, three parts of 140."""
    return group_job(job_id, 0, hints=6, tokens=20)


@asynccontextmanager
async def two_teachers(
    addresses: list[str], settings: DispatcherSettings | None = None
) -> AsyncIterator[tuple[JobQueue, ScriptedTeacher, ScriptedTeacher]]:
    """A queue and two connected teachers behind a dispatcher."""
    async with (
        MemoryQueue() as queue,
        serving(ScriptedTeacher(), addresses[0]) as one,
        serving(ScriptedTeacher(), addresses[1]) as two,
        dispatching(queue, addresses, settings) as dispatcher,
    ):
        await until(lambda: len(dispatcher.connected) == 2)
        yield queue, one, two


def test_a_group_s_jobs_meet_at_one_teacher_and_groups_spread(addresses: list[str]) -> None:
    async def run() -> None:
        async with two_teachers(addresses) as (queue, one, two):
            jobs = [group_job(f"{g} {phase}", g) for g in range(40) for phase in "abc"]
            for job in jobs:
                await enqueue(queue, job)
                result = await result_of(queue, job)
                np.testing.assert_array_equal(result.scores.sampled, expected_scores(job))
            seen = [{name.split()[0] for name in teacher.received} for teacher in (one, two)]
            assert not seen[0] & seen[1]
            assert min(map(len, seen)) >= 10

    asyncio.run(run())


def test_what_is_too_much_for_one_teacher_goes_to_the_other(addresses: list[str]) -> None:
    async def run() -> None:
        settings = DispatcherSettings(teacher_tokens=1000, imbalance=0.3)
        async with two_teachers(addresses, settings) as (queue, one, two):
            one.open.clear()
            two.open.clear()
            jobs = [group_job(f"job {number}", 0) for number in range(8)]  # 162 tokens each
            await enqueue(queue, *jobs)
            await until(lambda: one.under_way + two.under_way == 8)
            assert abs(one.under_way - two.under_way) <= 2  # 0.3 and a job of 0.162
            one.open.set()
            two.open.set()
            for job in jobs:
                await result_of(queue, job)

    asyncio.run(run())


def test_while_one_teacher_is_paused_the_other_gets_its_jobs(addresses: list[str]) -> None:
    async def run() -> None:
        async with two_teachers(addresses) as (queue, one, two):
            one.busy_seconds = two.busy_seconds = 3600.0
            two.received = one.received  # so that only the first that is asked refuses
            for name in ("busy a", "b"):
                await submit(queue, name)
                assert (await ended(queue, name)).state is JobState.DONE
                assert (await queue.job(name)).failures == 0
            got = [[job.id for job in teacher.jobs] for teacher in (one, two)]
            assert sorted(got) == [["busy a"], ["busy a", "b"]]

    asyncio.run(run())


def test_no_more_is_claimed_than_teachers_can_hold_and_nothing_twice(addresses: list[str]) -> None:
    async def run() -> None:
        async with two_teachers(addresses, DispatcherSettings(teacher_jobs=3)) as (queue, one, two):
            one.open.clear()
            two.open.clear()
            jobs = [group_job(f"job {number}", number) for number in range(200)]
            await enqueue(queue, *jobs)
            await until(lambda: one.under_way == two.under_way == 3)
            await asyncio.sleep(0.1)
            (stats,) = await queue.stats()
            assert stats.claimed == 6
            one.open.set()
            two.open.set()
            for job in jobs:
                await result_of(queue, job)
                assert (await queue.job(job.id)).attempt == 1
            assert max(one.most_under_way, two.most_under_way) == 3

    asyncio.run(run())


def test_a_job_that_failed_travels_alone_and_the_other_teacher_works_on(
    addresses: list[str],
) -> None:
    quick = DispatcherSettings(drain_seconds=0.1)

    async def run() -> None:
        async with two_teachers(addresses, quick) as (queue, one, two):
            one.open.clear()
            two.open.clear()
            await enqueue(queue, *(group_job(f"job {number}", number) for number in range(20)))
            await until(lambda: one.under_way + two.under_way == 20)
            await submit(queue, "broken a")  # fails at once, then waits for an empty teacher
            await until(lambda: _failed(queue, "broken a"))
            await submit(queue, "hang b")
            await until(lambda: "hang b" in one.received + two.received)
            alone, other = (one, two) if "hang b" in two.received else (two, one)
            alone.open.set()
            assert (await ended(queue, "broken a")).state is JobState.DEAD
            assert alone.received[-2:] == ["broken a", "broken a"]
            other.open.set()

    async def _failed(queue: JobQueue, job_id: str) -> bool:
        record = await queue.job(job_id)
        return record.failures > 0 and record.state is JobState.CLAIMED

    asyncio.run(run())


def test_a_teacher_lost_on_the_way_loses_no_job(addresses: list[str]) -> None:
    async def run() -> None:
        jobs = [group_job(f"job {number}", number) for number in range(100)]
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), addresses[0]) as stays,
            dispatching(queue, addresses),
        ):
            async with serving(ScriptedTeacher(), addresses[1]) as goes:
                stays.open.clear()
                goes.open.clear()
                await enqueue(queue, *jobs)
                await until(lambda: goes.under_way > 5 and stays.under_way > 5)
            stays.open.set()
            for job in jobs:
                result = await result_of(queue, job)
                np.testing.assert_array_equal(result.scores.sampled, expected_scores(job))
            (stats,) = await queue.stats()
            assert (stats.done, stats.queued, stats.claimed) == (100, 0, 0)
            assert sorted(stays.received) == sorted(job.id for job in jobs)

    asyncio.run(run())


def test_a_teacher_that_joins_later_is_used(addresses: list[str]) -> None:
    async def run() -> None:
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), addresses[0]),
            dispatching(queue, addresses) as dispatcher,
        ):
            await enqueue(queue, first := group_job("first", 0))
            await result_of(queue, first)
            async with serving(ScriptedTeacher(), addresses[1]) as joins:
                await until(lambda: len(dispatcher.connected) == 2)
                jobs = [group_job(f"job {number}", number) for number in range(1, 40)]
                await enqueue(queue, *jobs)
                for job in jobs:
                    await result_of(queue, job)
                assert len(joins.received) >= 10

    asyncio.run(run())


def test_a_large_job_is_scored_in_parts_by_both_teachers(addresses: list[str]) -> None:
    async def run() -> None:
        settings = replace(SMALL_PARTS, teacher_tokens=400)
        async with two_teachers(addresses, settings) as (queue, one, two):
            job = large_job("large")
            await enqueue(queue, job)
            result = await result_of(queue, job)
            np.testing.assert_array_equal(result.scores.sampled, expected_scores(job))
            assert sorted(one.received + two.received) == [
                f"large/delivery-1/part-{part}-of-3" for part in (1, 2, 3)
            ]
            assert one.received
            assert two.received
            assert result.cost.tokens_naive == job.tokens_naive
            assert result.cost.tokens_computed == job.tokens_computed
            assert result.cost.wait_seconds == 0.25

    asyncio.run(run())


def test_a_job_above_the_only_teacher_s_bound_passes_in_parts(addresses: list[str]) -> None:
    async def run() -> None:
        teacher = ScriptedTeacher()
        teacher.info = replace(teacher.info, max_job_tokens=150)
        async with (
            MemoryQueue() as queue,
            serving(teacher, addresses[0]),
            dispatching(queue, addresses[:1]),
        ):
            job = large_job("large")
            await enqueue(queue, job)
            np.testing.assert_array_equal(
                (await result_of(queue, job)).scores.sampled, expected_scores(job)
            )
            assert len(teacher.received) == 3

    asyncio.run(run())


def test_parts_wait_for_room_and_no_other_job_is_claimed_meanwhile(addresses: list[str]) -> None:
    async def run() -> None:
        settings = replace(SMALL_PARTS, teacher_jobs=1)
        async with two_teachers(addresses, settings) as (queue, one, two):
            one.open.clear()
            two.open.clear()
            await enqueue(queue, job := large_job("large"))
            await until(lambda: one.under_way == two.under_way == 1)
            await submit(queue, "small")
            await asyncio.sleep(0.1)
            assert (await queue.job("small")).attempt == 0
            one.open.set()
            two.open.set()
            await result_of(queue, job)
            assert (await ended(queue, "small")).state is JobState.DONE

    asyncio.run(run())


def test_parts_of_another_revision_are_scored_again(addresses: list[str]) -> None:
    async def run() -> None:
        settings = replace(SMALL_PARTS, teacher_tokens=400)
        async with two_teachers(addresses, settings) as (queue, one, two):
            two.info = replace(two.info, weights_revision="r1")
            jobs = [large_job(f"large {number}") for number in range(5)]
            for job in jobs:
                await enqueue(queue, job)
                result = await result_of(queue, job)
                assert result.weights_revision in ("r0", "r1")
                np.testing.assert_array_equal(result.scores.sampled, expected_scores(job))
                assert (await queue.job(job.id)).attempt == 1
            revisions = [_parts(one, job.id) for job in jobs], [_parts(two, job.id) for job in jobs]
            # Each job was in the end scored whole by one of them.
            assert all(3 in counts for counts in zip(*revisions, strict=True))
            assert any(min(counts) > 0 for counts in zip(*revisions, strict=True))

    def _parts(teacher: ScriptedTeacher, job_id: str) -> int:
        return len({name for name in teacher.received if name.startswith(f"{job_id}/")})

    asyncio.run(run())


class Restless(ScriptedTeacher):
    """A teacher with another revision at each answer."""

    async def _score(self, request):
        self.info = replace(self.info, weights_revision=f"r{len(self.received)}")
        return await super()._score(request)


def test_parts_that_never_are_of_one_revision_fail_the_job(addresses: list[str]) -> None:
    async def run() -> None:
        teacher = Restless()
        teacher.info = replace(teacher.info, max_job_tokens=150)
        async with (
            MemoryQueue(QueueSettings(max_attempts=2)) as queue,
            serving(teacher, addresses[0]),
            dispatching(queue, addresses[:1]),
        ):
            await enqueue(queue, large_job("large"))
            error = error_of(await ended(queue, "large"))
            assert error.details["last_reason"] == "MIXED_REVISIONS"
            assert len(teacher.received) == 2 * (3 + 2 + 2)

    asyncio.run(run())


def test_a_part_that_fails_for_good_fails_the_job_with_its_error(addresses: list[str]) -> None:
    async def run() -> None:
        async with two_teachers(addresses, SMALL_PARTS) as (queue, one, two):
            await enqueue(queue, large_job("nan large"), small := group_job("small", 1))
            outcome = await ended(queue, "nan large")
            assert (outcome.state, error_of(outcome).reason) == (JobState.FAILED, "NOT_FINITE")
            await result_of(queue, small)
            assert one.under_way == two.under_way == 0

    asyncio.run(run())


def test_a_part_that_may_pass_later_gives_the_whole_job_back(addresses: list[str]) -> None:
    async def run() -> None:
        async with two_teachers(addresses, SMALL_PARTS) as (queue, one, two):
            job = large_job("broken large")
            await enqueue(queue, job)
            error = error_of(await ended(queue, job.id))
            assert (error.reason, error.details["last_reason"]) == ("DEAD_LETTER", "ENGINE_FAILED")
            deliveries = {name.split("/")[1] for name in one.received + two.received}
            assert deliveries == {"delivery-1", "delivery-2", "delivery-3"}

    asyncio.run(run())


def test_a_teacher_lost_with_a_part_gives_the_whole_job_back_and_late_parts_are_dropped(
    addresses: list[str],
) -> None:
    async def run() -> None:
        settings = replace(SMALL_PARTS, teacher_tokens=400)
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), addresses[0]) as stays,
            dispatching(queue, addresses, settings) as dispatcher,
        ):
            async with serving(ScriptedTeacher(), addresses[1]) as goes:
                await until(lambda: len(dispatcher.connected) == 2)
                stays.open.clear()
                goes.open.clear()
                await enqueue(queue, job := large_job("large"))
                await until(lambda: goes.under_way + stays.under_way == 3)
                assert goes.under_way > 0
            await until(lambda: _given_back(queue))
            assert (await queue.job("large")).failures == 1
            stays.open.set()  # answers the first delivery's parts, which nobody waits for
            result = await result_of(queue, job)
            np.testing.assert_array_equal(result.scores.sampled, expected_scores(job))
            assert (await queue.job("large")).attempt == 2

    async def _given_back(queue: JobQueue) -> bool:
        return (await queue.job("large")).attempt == 2

    asyncio.run(run())


def test_stopping_releases_a_job_whose_parts_are_under_way(addresses: list[str]) -> None:
    async def run() -> None:
        settings = replace(SMALL_PARTS, drain_seconds=0.1)
        async with two_teachers(addresses, settings) as (queue, one, two):
            one.open.clear()
            two.open.clear()
            await enqueue(queue, large_job("large"))
            await until(lambda: one.under_way + two.under_way == 3)
        record = await queue.job("large")
        assert (record.state, record.failures) == (JobState.QUEUED, 0)

    asyncio.run(run())


CACHE_TOKENS = 120_000


async def prefix_hit_share(addresses: list[str]) -> float:
    """Share of context tokens that teachers with so much cache in all find there.

    Three runs, each step in two phases, and a twin of the first run, one step behind it.
    """
    runs = [run_jobs(name, seed, steps=15) for seed, name in enumerate("abc")]
    twin = [[], [], *run_jobs("twin", 0, steps=14)]
    caches = [PrefixCache(CACHE_TOKENS // len(addresses)) for _ in addresses]
    async with AsyncExitStack() as stack:
        queue = await stack.enter_async_context(MemoryQueue())
        for address, cache in zip(addresses, caches, strict=True):
            teacher = await stack.enter_async_context(serving(ScriptedTeacher(), address))
            teacher.reads = cache.read
        dispatcher = await stack.enter_async_context(dispatching(queue, addresses))
        await until(lambda: len(dispatcher.connected) == len(addresses))
        for of_runs in zip(*runs, twin, strict=True):
            together = [job for of_run in of_runs for job in of_run]
            await enqueue(queue, *together)
            for job in together:
                await result_of(queue, job)
    read = sum(cache.read_tokens for cache in caches)
    return sum(cache.cached_tokens for cache in caches) / read


def test_two_teachers_find_as_much_in_their_caches_as_one_with_all_of_it(
    addresses: list[str],
) -> None:
    alone = asyncio.run(prefix_hit_share(addresses[:1]))
    together = asyncio.run(prefix_hit_share(addresses))
    assert alone > 0.5
    assert abs(alone - together) < 0.05
