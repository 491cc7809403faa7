"""What follows a job: taken over when it is well-formed, found wherever the job is worked for."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint.request_context import (
    TraceContext,
    accept,
    accept_message,
    accept_metadata,
    current,
    within_span,
    working_for,
)

PARENT = f"00-{'1' * 32}-{'2' * 16}-01"
TRACE = TraceContext("one", PARENT)


def test_it_comes_back_from_messages_and_metadata() -> None:
    assert accept_message(TRACE.to_message()) == TRACE
    assert accept_metadata((("authorization", "Bearer x"), *TRACE.to_metadata())) == TRACE
    assert TraceContext("one").to_metadata() == (("x-request-id", "one"),)


@given(request_id=st.text(max_size=200), traceparent=st.text(max_size=80))
def test_nothing_reaches_the_logs_but_what_an_id_may_be(request_id: str, traceparent: str) -> None:
    accepted = accept(request_id, traceparent)
    assert 1 <= len(accepted.request_id) <= 128
    assert accepted.request_id.isascii()
    assert accepted.request_id.isprintable()
    assert " " not in accepted.request_id
    assert accepted.traceparent in ("", traceparent)
    assert len(accepted.traceparent) in (0, 55)


def test_an_id_is_made_where_there_is_none() -> None:
    made = {accept_metadata(None).request_id for _ in range(100)}
    assert len(made) == 100
    assert {len(request_id) for request_id in made} == {16}


@pytest.mark.parametrize(
    "traceparent",
    [
        PARENT.upper().replace("1", "A"),
        PARENT.replace("00-", "ff-"),
        PARENT.replace("1" * 32, "0" * 32),
        PARENT.replace("2" * 16, "0" * 16),
        PARENT + "-more",
    ],
)
def test_a_traceparent_that_the_standard_refuses_is_left_out(traceparent: str) -> None:
    assert accept("one", traceparent) == TraceContext("one")


def test_tasks_of_several_jobs_do_not_meet() -> None:
    async def work(name: str) -> tuple[str, str, str]:
        with working_for("run", name, TraceContext(f"request-{name}", PARENT)):
            with within_span(f"span-of-{name}"):
                await asyncio.sleep(0)
                inner = asyncio.create_task(ask())
            assert current().trace.traceparent == PARENT
            return await inner

    async def ask() -> tuple[str, str, str]:
        await asyncio.sleep(0)
        job = current()
        return job.job_id, job.trace.request_id, job.trace.traceparent

    async def run() -> None:
        names = [str(number) for number in range(8)]
        found = await asyncio.gather(*(work(name) for name in names))
        assert found == [(name, f"request-{name}", f"span-of-{name}") for name in names]
        assert current().job_id == ""

    asyncio.run(run())
