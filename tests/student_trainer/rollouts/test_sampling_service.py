"""The lock between groups and pushes; what needs vLLM is in `test_vllm_server.py`."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from student_trainer.rollouts.sampling_service import WeightsLock


class Log:
    """What happened under a lock, in order."""

    def __init__(self) -> None:
        self.lock = WeightsLock()
        self.events: list[str] = []

    async def group(self, name: str, until: asyncio.Event) -> None:
        async with self.lock.sampling():
            self.events.append(f"{name} began")
            await until.wait()
            self.events.append(f"{name} ended")

    async def push(self, name: str, until: asyncio.Event) -> None:
        async with self.lock.pushing():
            self.events.append(f"{name} began")
            await until.wait()
            self.events.append(f"{name} ended")


async def started(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    for _ in range(10):
        await asyncio.sleep(0)
    return task


def test_a_push_waits_for_groups_and_goes_before_new_ones() -> None:
    async def run() -> list[str]:
        log, end, at_once = Log(), asyncio.Event(), asyncio.Event()
        at_once.set()
        tasks = [
            await started(log.group("first", end)),
            await started(log.push("push", at_once)),
            await started(log.group("second", at_once)),
        ]
        assert log.events == ["first began"]
        end.set()
        await asyncio.gather(*tasks)
        return log.events

    assert asyncio.run(run()) == [
        *("first began", "first ended"),
        *("push began", "push ended"),
        *("second began", "second ended"),
    ]


def test_groups_run_side_by_side_and_pushes_one_after_another() -> None:
    async def run() -> None:
        log, end = Log(), asyncio.Event()
        groups = [await started(log.group(name, end)) for name in "ab"]
        assert log.events == ["a began", "b began"]
        end.set()
        await asyncio.gather(*groups)
        end.clear()
        pushes = [await started(log.push(name, end)) for name in "xy"]
        assert log.events[4:] == ["x began"]
        end.set()
        await asyncio.gather(*pushes)
        assert log.events[4:] == ["x began", "x ended", "y began", "y ended"]

    asyncio.run(run())


@pytest.mark.parametrize("under_way", [False, True])
def test_a_push_that_is_cancelled_lets_groups_go_on(under_way: bool) -> None:
    async def run() -> list[str]:
        log, end, at_once = Log(), asyncio.Event(), asyncio.Event()
        at_once.set()
        tasks = [] if under_way else [await started(log.group("first", end))]
        push = await started(log.push("push", end))
        push.cancel()
        tasks.append(await started(log.group("second", at_once)))
        end.set()
        await asyncio.gather(*tasks)
        return log.events

    expected = ["second began", "second ended"]
    before = ["push began"] if under_way else ["first began"]
    after = [] if under_way else ["first ended"]
    assert asyncio.run(run()) == [*before, *expected, *after]
