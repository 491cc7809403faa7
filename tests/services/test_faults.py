"""Real processes that are killed, paused and lost: each job still ends in one result."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from counterhint.client import AsyncScoringClient
from counterhint.errors import JobDeadLettered
from deploy.local.redis import LocalRedis
from services.queue.base import JobQueue
from services.queue.records import QueueSettings
from services.queue.redis_streams import RedisQueue
from services.server import serve_intake
from tests.processes import wait_until
from tests.services.scripted_teacher import (
    ScriptedTeacher,
    expected_scores,
    make_job,
    serving,
)

Start = Callable[[Sequence[str]], "Process"]


class Process:
    """A child process with its log."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(command, stdout=output, stderr=output)

    def send(self, number: signal.Signals) -> None:
        os.kill(self._child.pid, number)

    def wait(self) -> int:
        return self._child.wait(timeout=30.0)

    @property
    def ended(self) -> bool:
        return self._child.poll() is not None

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[LocalRedis]:
    server = LocalRedis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts child processes, and ends those that are left."""
    children: list[Process] = []

    def start(command: Sequence[str]) -> Process:
        children.append(Process(command, tmp_path / f"child{len(children)}.log"))
        return children[-1]

    yield start
    for child in children:
        child.kill()


def dispatcher(redis: LocalRedis, teacher: str) -> list[str]:
    return [
        *(sys.executable, "-m", "deploy.cli", "services", "run", "dispatcher"),
        *("--redis", redis.url, "--teachers", teacher, "--lease-seconds", "1.5"),
    ]


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, 30.0)


async def number_done(queue: JobQueue) -> int:
    return sum(run.done for run in await queue.stats())


def test_a_killed_dispatcher_s_job_is_taken_over(
    redis: LocalRedis, start: Start, tmp_path: Path
) -> None:
    address, intake = f"unix://{tmp_path}/t.sock", f"unix://{tmp_path}/i.sock"

    async def run() -> None:
        async with (
            serving(ScriptedTeacher(), address) as teacher,
            RedisQueue(redis.url, QueueSettings(lease_seconds=1.5)) as queue,
            serve_intake(queue, intake),
            AsyncScoringClient(intake, timeout=60.0) as client,
        ):
            teacher.open.clear()
            first = start(dispatcher(redis, address))
            call = asyncio.create_task(client.score(make_job("a")))
            await until(lambda: teacher.received == ["a"])
            first.kill()
            second = start(dispatcher(redis, address))
            await until(lambda: teacher.received == ["a", "a"])
            teacher.open.set()
            np.testing.assert_array_equal(
                (await call).scores.sampled, expected_scores(make_job("a"))
            )
            assert await number_done(queue) == 1
            second.send(signal.SIGTERM)
            assert await asyncio.to_thread(second.wait) == 0

    asyncio.run(run())


def test_a_paused_dispatcher_s_late_result_is_discarded(
    redis: LocalRedis, start: Start, tmp_path: Path
) -> None:
    address, intake = f"unix://{tmp_path}/t.sock", f"unix://{tmp_path}/i.sock"

    async def run() -> None:
        async with (
            serving(ScriptedTeacher(), address) as teacher,
            RedisQueue(redis.url, QueueSettings(lease_seconds=1.5)) as queue,
            serve_intake(queue, intake),
            AsyncScoringClient(intake, timeout=60.0) as client,
        ):
            teacher.open.clear()
            paused = start(dispatcher(redis, address))
            call = asyncio.create_task(client.score(make_job("a")))
            await until(lambda: teacher.received == ["a"])
            paused.send(signal.SIGSTOP)
            start(dispatcher(redis, address))
            await until(lambda: teacher.received == ["a", "a"])
            teacher.open.set()
            await call
            paused.send(signal.SIGCONT)
            await until(
                lambda: (
                    "job a: lease lost, what came of it is discarded"
                    in paused.log.read_text(encoding="utf-8")
                )
            )
            assert await number_done(queue) == 1

    asyncio.run(run())


def test_a_job_that_kills_every_teacher_is_put_aside_and_the_others_finish(
    redis: LocalRedis, start: Start, tmp_path: Path
) -> None:
    address, intake = f"unix://{tmp_path}/t.sock", f"unix://{tmp_path}/i.sock"
    received = tmp_path / "received.txt"
    teacher = [sys.executable, "-m", "tests.services.scripted_teacher", address, str(received)]

    async def keep_teacher_running() -> None:
        for _ in count():
            child = start(teacher)
            while not child.ended:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def run() -> None:
        async with (
            RedisQueue(redis.url, QueueSettings(lease_seconds=1.5)) as queue,
            serve_intake(queue, intake),
            AsyncScoringClient(intake, timeout=60.0) as client,
        ):
            running = asyncio.create_task(keep_teacher_running())
            start(dispatcher(redis, address))
            await client.get_teacher()
            jobs = ("b", "crash a", "c", "d")
            calls = [asyncio.create_task(client.score(make_job(name))) for name in jobs]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            running.cancel()
            dead = ended.pop(1)
            assert isinstance(dead, JobDeadLettered)
            assert dead.details["last_reason"] == "TEACHER_LOST"
            assert [result.job_id for result in ended] == ["b", "c", "d"]
            assert received.read_text(encoding="utf-8").splitlines().count("crash a") == 3
            assert [job.id for job in await queue.dead()] == ["crash a"]

    asyncio.run(run())


def test_a_redis_that_comes_back_empty_gets_the_jobs_again(
    redis: LocalRedis, start: Start, tmp_path: Path
) -> None:
    address, intake = f"unix://{tmp_path}/t.sock", f"unix://{tmp_path}/i.sock"

    async def run() -> None:
        async with (
            serving(ScriptedTeacher(), address) as teacher,
            RedisQueue(redis.url, QueueSettings(lease_seconds=1.5)) as queue,
            serve_intake(queue, intake),
            AsyncScoringClient(intake, timeout=60.0) as client,
        ):
            teacher.open.clear()
            start(dispatcher(redis, address))
            names = [f"job {number}" for number in range(5)]
            calls = [asyncio.create_task(client.score(make_job(name))) for name in names]
            await until(lambda: len(teacher.received) == 5)
            redis.kill()
            for file in redis.folder.glob("appendonly*"):
                file.unlink()
            redis.start()
            teacher.open.set()
            assert [(await call).job_id for call in calls] == names

    asyncio.run(run())
