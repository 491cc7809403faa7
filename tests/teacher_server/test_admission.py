import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint.errors import Overloaded, Unavailable
from teacher_server.admission import Admission, Gate
from teacher_server.engines.base import Engine


def admission(
    max_tokens: int = 1000,
    max_held_bytes: int = 1000,
    concurrent_jobs: int = 1,
    concurrent_tokens: int | None = None,
) -> Admission:
    class Bounds(Engine):
        async def score(self, job: Any) -> Any:
            raise AssertionError

        def progress(self) -> int:
            return 0

    engine = Bounds()
    engine.concurrent_jobs, engine.concurrent_tokens = concurrent_jobs, concurrent_tokens
    return Admission(engine, max_tokens, max_held_bytes)


@asynccontextmanager
async def admitted(admission: Admission, tokens: int, size: int = 0) -> AsyncIterator[float]:
    async with AsyncExitStack() as held, admission.admit(tokens, size, held) as waited:
        yield waited


async def settle() -> None:
    """Lets every task go on until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_scores_that_are_there_already_wait_for_room_but_not_for_a_turn():
    async def run() -> None:
        bounded = admission(max_held_bytes=100)
        async with AsyncExitStack() as later:
            async with admitted(bounded, 10, 60), AsyncExitStack() as held:
                await bounded.hold(40, held)
                waiting = asyncio.create_task(bounded.hold(1, later))
                await settle()
                assert not waiting.done()
            await waiting
            assert bounded.held_bytes == 1
        assert bounded.held_bytes == 0

    asyncio.run(run())


def test_jobs_run_in_the_order_in_which_they_came():
    async def run() -> None:
        one_by_one, order = admission(), []

        async def job(name: int) -> None:
            async with admitted(one_by_one, 10):
                order.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(*(job(name) for name in range(20)))
        assert order == list(range(20))
        assert one_by_one.tokens == 0

    asyncio.run(run())


def test_the_retry_delay_grows_with_the_backlog_and_shrinks_with_speed():
    async def run() -> None:
        delays = []
        for tokens, rate in ((1_000, 1_000), (9_000, 1_000), (9_000, 100_000)):
            busy = admission(max_tokens=9_000)
            for _ in range(30):
                busy.observe(rate, 1.0)
            async with admitted(busy, tokens):
                with pytest.raises(Overloaded) as refused:
                    async with admitted(busy, 8_001):
                        pass
                assert refused.value.reason == "TEACHER_BUSY"
                delays.append(refused.value.retry_after)
        assert delays[0] == pytest.approx(1.0, rel=0.01)
        assert delays[1] == pytest.approx(9.0, rel=0.01)
        assert delays[2] == pytest.approx(0.1, rel=0.2)

    asyncio.run(run())


def test_jobs_that_run_at_once_add_up_to_the_speed():
    async def run() -> None:
        delays = []
        for jobs in (1, 4):
            busy = admission(max_tokens=4_000, concurrent_jobs=4)
            async with AsyncExitStack() as running:
                for _ in range(jobs):
                    await running.enter_async_context(admitted(busy, 4_000 // jobs))
                for _ in range(30):
                    busy.observe(1_000, 1.0)
                with pytest.raises(Overloaded) as refused:
                    async with admitted(busy, 1):
                        pass
            delays.append(refused.value.retry_after)
        assert delays == [pytest.approx(4.0, rel=0.01), pytest.approx(1.0, rel=0.01)]

    asyncio.run(run())


def test_a_waiting_job_that_is_cancelled_gives_its_tokens_back():
    async def run() -> None:
        full, ran = admission(max_tokens=100), []

        async def job() -> None:
            async with admitted(full, 60):
                ran.append(True)

        async with admitted(full, 40):
            waiting = asyncio.create_task(job())
            await settle()
            assert (full.waiting_tokens, full.running_tokens) == (60, 40)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert full.tokens == 40
        assert not ran

    asyncio.run(run())


def test_a_job_that_comes_alone_is_taken_whatever_its_size():
    async def run() -> None:
        small = admission(max_tokens=10, max_held_bytes=10, concurrent_tokens=10)
        async with admitted(small, 50, 50) as waited:
            assert (small.tokens, small.held_bytes) == (50, 50)
            assert waited >= 0
        assert (small.tokens, small.held_bytes) == (0, 0)

    asyncio.run(run())


def test_memory_is_held_until_the_reply_was_sent():
    async def run() -> None:
        bounded, order = admission(max_held_bytes=100, concurrent_jobs=9), []
        may_send = asyncio.Event()

        async def job(name: str, size: int) -> None:
            async with AsyncExitStack() as held:
                async with bounded.admit(1, size, held):
                    order.append(name)
                await may_send.wait()

        jobs = [asyncio.create_task(job(*each)) for each in (("a", 60), ("b", 40), ("c", 1))]
        await settle()
        assert order == ["a", "b"]
        assert bounded.held_bytes == 100
        assert bounded.running_tokens == 0  # the engine is free: only memory is short
        may_send.set()
        await asyncio.gather(*jobs)
        assert order == ["a", "b", "c"]
        assert bounded.held_bytes == 0

    asyncio.run(run())


def test_an_engine_may_bound_tokens_and_a_large_job_is_not_starved():
    async def run() -> None:
        by_tokens, order = admission(concurrent_tokens=100), []
        done = {name: asyncio.Event() for name in ("a", "b", "large", "c")}

        async def job(name: str, tokens: int) -> None:
            async with admitted(by_tokens, tokens):
                order.append(name)
                await done[name].wait()

        sizes = {"a": 40, "b": 60, "large": 90, "c": 10}
        jobs = [asyncio.create_task(job(*each)) for each in sizes.items()]
        await settle()
        assert order == ["a", "b"]
        done["b"].set()
        await settle()
        assert order == ["a", "b"]  # c would fit, but does not overtake
        done["a"].set()
        await settle()
        assert order == ["a", "b", "large", "c"]
        for event in done.values():
            event.set()
        await asyncio.gather(*jobs)

    asyncio.run(run())


def test_a_large_job_that_is_cancelled_lets_those_behind_it_in():
    async def run() -> None:
        gate, entered = Gate(10), []

        async def pass_through(name: str, amount: int) -> None:
            async with gate.take(amount):
                entered.append(name)

        async with gate.take(5):
            large = asyncio.create_task(pass_through("large", 10))
            small = asyncio.create_task(pass_through("small", 5))
            await settle()
            assert not entered
            large.cancel()
            await asyncio.wait({large, small})
            assert entered == ["small"]

    asyncio.run(run())


def test_a_closed_admission_refuses_who_waits_and_who_comes_but_not_who_runs():
    async def run() -> None:
        closing = admission(max_held_bytes=10, concurrent_jobs=1)
        error = Unavailable("closed", reason="DRAINING")

        async def job(size: int) -> None:
            async with admitted(closing, 1, size):
                pass

        async with admitted(closing, 1, 5):
            for_turn, for_memory = asyncio.create_task(job(5)), asyncio.create_task(job(5))
            await settle()
            closing.close(error)
            await asyncio.wait({for_turn, for_memory})
            assert for_turn.exception() is for_memory.exception() is error
            with pytest.raises(Unavailable):
                await job(0)
            assert (closing.running_tokens, closing.waiting_tokens) == (1, 0)
        assert (closing.tokens, closing.held_bytes) == (0, 0)

    asyncio.run(run())


@given(
    amounts=st.lists(st.integers(0, 12), max_size=12),
    actions=st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=30),
)
def test_a_gate_keeps_order_and_bound_whatever_is_cancelled(
    amounts: Sequence[int], actions: Sequence[tuple[bool, int]]
):
    async def run() -> None:
        gate, inside, entered = Gate(10), {}, []
        leave = [asyncio.Event() for _ in amounts]

        async def visitor(index: int) -> None:
            async with gate.take(amounts[index]):
                inside[index] = amounts[index]
                entered.append(index)
                try:
                    await leave[index].wait()
                finally:
                    del inside[index]

        tasks = [asyncio.create_task(visitor(index)) for index in range(len(amounts))]
        for cancels, index in actions:
            if index < len(tasks):
                tasks[index].cancel() if cancels else leave[index].set()
            await settle()
            assert gate.taken == sum(inside.values())
            assert gate.taken <= 10 or sum(map(bool, inside.values())) == 1
            assert entered == sorted(entered)
        for event in leave:
            event.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.taken == 0
        assert {*entered} | {i for i, task in enumerate(tasks) if task.cancelled()} == {
            *range(len(tasks))
        }

    asyncio.run(run())
