import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from counterhint.errors import CounterhintError, EngineFailure, JobCancelled, Unavailable
from counterhint.jobs import Scores, ScoringJob
from teacher_server.engines.base import Engine, Scored
from teacher_server.watched_engine import WatchedEngine
from tests.teacher_server.jobs import SMALL, random_job
from tests.teacher_server.running import ZeroEngine, until

HOUR = 3600.0


class Scripted(ZeroEngine):
    """Does what `script` says to each job; without a word for it, it scores 0."""

    def __init__(self) -> None:
        super().__init__()
        self.script: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}
        self.asked: list[str] = []

    async def score(self, job: ScoringJob) -> Scored:
        self.asked.append(job.id)
        if job.id in self.script:
            await self.script[job.id]()
        return await super().score(job)


async def hang() -> None:
    """As a thread that takes no notice of anything."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def fails_with(error: Exception) -> Callable[[], Coroutine[Any, Any, None]]:
    async def fail() -> None:
        raise error

    return fail


def job(id: str) -> ScoringJob:
    return random_job(**SMALL, id=id)


def watching(
    engine: Engine,
    use: Callable[[WatchedEngine], Coroutine[Any, Any, None]],
    hang_seconds: float = HOUR,
    check_seconds: float = HOUR,
) -> None:
    async def run() -> None:
        watched = WatchedEngine(engine, hang_seconds, check_seconds)
        watch = asyncio.create_task(watched.watch())
        await use(watched)
        watch.cancel()

    # Not asyncio.run, which would wait for tasks that take no notice of being cancelled.
    loop = asyncio.new_event_loop()
    loop.run_until_complete(run())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
    loop.close()


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


def test_an_engine_that_says_so_is_dead_and_everybody_inside_hears_it(scripted: Scripted):
    async def use(watched: WatchedEngine) -> None:
        inside = [asyncio.create_task(watched.score(job("stuck"))) for _ in range(3)]
        await until(lambda: len(scripted.asked) == 3)
        with pytest.raises(Unavailable, match="the core is gone") as dead:
            await watched.score(job("bad"))
        assert dead.value.reason == "ENGINE_DEAD"
        await asyncio.wait(inside)
        assert {task.exception().reason for task in inside} == {"ENGINE_DEAD"}
        with pytest.raises(Unavailable):
            await watched.score(job("later"))
        assert "later" not in scripted.asked
        assert "the core is gone" in watched.trouble()

    scripted.script = {
        "stuck": hang,
        "bad": fails_with(Unavailable("the core is gone", reason="CORE")),
    }
    watching(scripted, use)


def test_a_job_without_progress_is_hanging(scripted: Scripted):
    async def use(watched: WatchedEngine) -> None:
        with pytest.raises(Unavailable, match="for --hang-seconds") as hanging:
            await watched.score(job("stuck"))
        assert hanging.value.reason == "ENGINE_HANGING"

    scripted.script = {"stuck": hang}
    watching(scripted, use, hang_seconds=0.2)


def test_jobs_that_give_up_do_not_hide_a_hanging_engine(scripted: Scripted):
    async def use(watched: WatchedEngine) -> None:
        while not watched.lost.done():
            with pytest.raises((TimeoutError, Unavailable)):
                await asyncio.wait_for(watched.score(job("stuck")), 0.05)
        assert watched.lost.result().reason == "ENGINE_HANGING"

    scripted.script = {"stuck": hang, "ready": hang}
    watching(scripted, use, hang_seconds=0.3)


def test_a_busy_engine_is_left_alone_however_long_a_job_takes(scripted: Scripted):
    looks = count()

    async def use(watched: WatchedEngine) -> None:
        work = asyncio.create_task(watched.score(job("long")))
        await until(lambda: next(looks) > 200)
        assert not watched.lost.done()
        assert watched.trouble() == ""
        work.cancel()

    scripted.script = {"long": hang}
    # It is looked at ten times while it may hang.
    scripted.progress = lambda: next(looks)  # type: ignore[method-assign]
    watching(scripted, use, hang_seconds=0.1)


def test_time_in_which_the_process_stood_still_is_not_the_engines(scripted: Scripted):
    release = asyncio.Event()

    async def use(watched: WatchedEngine) -> None:
        work = asyncio.create_task(watched.score(job("long")))
        await until(lambda: scripted.asked)
        time.sleep(1.0)  # noqa: ASYNC251 - as a process that is stopped: nothing runs meanwhile
        await asyncio.sleep(0.06)  # at least one look at the engine
        assert not watched.lost.done()
        release.set()
        await work

    scripted.script = {"long": release.wait}  # type: ignore[dict-item]
    watching(scripted, use, hang_seconds=0.5)


def test_an_idle_engine_is_tried_and_found_hanging(scripted: Scripted):
    async def use(watched: WatchedEngine) -> None:
        await watched.score(job("good"))
        await until(lambda: scripted.asked.count("ready") >= 3)
        assert not watched.lost.done()
        scripted.script = {"ready": hang}
        assert (await watched.lost).reason == "ENGINE_HANGING"

    watching(scripted, use, hang_seconds=0.2, check_seconds=0.02)


def test_an_idle_engine_that_has_ended_is_noticed_without_being_asked(scripted: Scripted):
    async def use(watched: WatchedEngine) -> None:
        await watched.score(job("good"))
        scripted.dead = lambda: True  # type: ignore[method-assign]
        assert (await watched.lost).reason == "ENGINE_DEAD"
        assert "ready" not in scripted.asked

    watching(scripted, use, hang_seconds=1.0)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: device-side assert"), EngineFailure("no", reason="OUT_OF_MEMORY")],
)
def test_after_a_failure_the_engine_is_tried_at_once(scripted: Scripted, error: Exception):
    async def use(watched: WatchedEngine) -> None:
        with pytest.raises(type(error)):
            await watched.score(job("bad"))
        await until(lambda: scripted.asked.count("ready") == 1)
        await watched.score(job("good"))
        scripted.script["ready"] = fails_with(error)
        with pytest.raises(type(error)):
            await watched.score(job("bad"))
        assert (await watched.lost).reason == "ENGINE_DEAD"

    scripted.script = {"bad": fails_with(error)}
    watching(scripted, use, hang_seconds=1.0)


def test_scores_that_are_not_finite_fail_the_job_and_the_canary(scripted: Scripted):
    async def give_nan(self: Scripted, job: ScoringJob) -> Scored:
        scored = await Scripted.score(self, job)
        if job.id == "good":
            return scored
        return replace(scored, scores=Scores(sampled=np.full(9, np.nan, np.float32)))

    async def use(watched: WatchedEngine) -> None:
        await watched.score(job("good"))
        with pytest.raises(EngineFailure, match="not finite"):
            await watched.score(job("bad"))
        assert "one token cannot be scored" in (await watched.lost).message

    scripted.score = lambda job: give_nan(scripted, job)  # type: ignore[method-assign]
    watching(scripted, use, hang_seconds=1.0)


def test_what_a_job_is_refused_for_says_nothing_about_the_engine(scripted: Scripted):
    error: CounterhintError = JobCancelled("no", reason="CANCELLED")

    async def use(watched: WatchedEngine) -> None:
        for _ in range(5):
            with pytest.raises(JobCancelled):
                await watched.score(job("bad"))
            await asyncio.sleep(0.02)
        assert "ready" not in scripted.asked

    scripted.script = {"bad": fails_with(error)}
    watching(scripted, use, hang_seconds=0.1)


def test_the_first_token_has_a_deadline(scripted: Scripted):
    async def use(watched: WatchedEngine) -> None:
        await watched.first_token(0.05)
        assert watched.lost.result().reason == "ENGINE_HANGING"
        assert "--ready-seconds 0.05" in watched.lost.result().message

    scripted.script = {"ready": hang}
    watching(scripted, use)


def test_the_start_has_a_deadline(scripted: Scripted):
    async def use(watched: WatchedEngine) -> None:
        await watched.start(0.05)
        assert watched.lost.result().reason == "ENGINE_HANGING"
        assert "did not start within --ready-seconds 0.05" in watched.lost.result().message

    async def never() -> None:
        await asyncio.Event().wait()

    scripted.start = never  # type: ignore[method-assign]
    watching(scripted, use)


def test_an_event_loop_that_stands_still_is_trouble(scripted: Scripted):
    async def use(watched: WatchedEngine) -> None:
        await until(lambda: watched.trouble() == "")
        while not watched.trouble():  # without an await: the loop does nothing meanwhile
            pass
        assert watched.trouble().startswith("the event loop has stood still for")
        await until(lambda: watched.trouble() == "")

    watching(scripted, use, hang_seconds=0.2)
