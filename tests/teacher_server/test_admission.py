import asyncio

import pytest

from counterhint.errors import Overloaded
from teacher_server.admission import Admission


def test_jobs_run_in_the_order_in_which_they_came():
    async def run() -> None:
        admission, order = Admission(1000, 1), []

        async def job(name: int) -> None:
            async with admission.admit(10):
                order.append(name)
                await asyncio.sleep(0)

        await asyncio.gather(*(job(name) for name in range(20)))
        assert order == list(range(20))
        assert admission.tokens == 0

    asyncio.run(run())


def test_the_retry_delay_grows_with_the_backlog_and_shrinks_with_speed():
    async def run() -> None:
        delays = []
        for tokens, rate in ((1_000, 1_000), (9_000, 1_000), (9_000, 100_000)):
            admission = Admission(9_000, 1)
            for _ in range(30):
                admission.observe(rate, 1.0)
            async with admission.admit(tokens):
                with pytest.raises(Overloaded) as refused:
                    async with admission.admit(8_001):
                        pass
                assert refused.value.reason == "TEACHER_BUSY"
                delays.append(refused.value.retry_after)
        assert delays[0] == pytest.approx(1.0, rel=0.01)
        assert delays[1] == pytest.approx(9.0, rel=0.01)
        assert delays[2] == pytest.approx(0.1, rel=0.2)

    asyncio.run(run())


def test_a_waiting_job_that_is_cancelled_gives_its_tokens_back():
    async def run() -> None:
        admission, ran = Admission(100, 1), []

        async def job() -> None:
            async with admission.admit(60):
                ran.append(True)

        async with admission.admit(40):
            waiting = asyncio.create_task(job())
            await asyncio.sleep(0)
            assert admission.tokens == 100
            waiting.cancel()
            await asyncio.wait({waiting})
            assert admission.tokens == 40
        assert not ran

    asyncio.run(run())


def test_a_job_that_comes_alone_is_taken_whatever_its_size():
    async def run() -> None:
        admission = Admission(10, 1)
        async with admission.admit(50) as waited:
            assert admission.tokens == 50
            assert waited >= 0

    asyncio.run(run())
