"""The dispatcher between a queue and teachers that come, go and misbehave."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from counterhint.client import AsyncScoringClient
from counterhint.errors import InvalidJob, Unavailable
from counterhint.jobs import TeacherInfo
from counterhint.messages import job_to_message, result_from_message
from counterhint.v1 import scoring_pb2
from services.dispatcher import DispatcherSettings, common_limits
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.records import Claim, JobState, QueuedJob, QueueSettings
from tests.services.dispatching import dispatching, ended, error_of, submit, until
from tests.services.scripted_teacher import (
    ScriptedTeacher,
    expected_scores,
    make_job,
    serving,
)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/teacher.sock"


async def all_queued(queue: JobQueue, *job_ids: str) -> bool:
    return all([(await queue.job(job_id)).state is JobState.QUEUED for job_id in job_ids])


async def is_connected(queue: JobQueue) -> bool:
    return await queue.teacher() is not None


def test_jobs_reach_the_teacher_and_its_bytes_the_queue(address: str) -> None:
    async def run() -> None:
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), address) as teacher,
            dispatching(queue, [address]),
        ):
            names = [f"job {number}" for number in range(40)]
            await submit(queue, *names)
            for name in names:
                outcome = await ended(queue, name)
                message = scoring_pb2.ScoreResponse.FromString(outcome.body)
                result = result_from_message(message, make_job(name))
                np.testing.assert_array_equal(
                    result.scores.sampled, expected_scores(make_job(name))
                )
            assert teacher.received == names
            await until(lambda: is_connected(queue))
            assert await queue.teacher() == teacher.info

    asyncio.run(run())


def test_a_queue_that_forgot_a_claim_and_gives_the_job_again(address: str) -> None:
    async def run() -> None:
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), address) as teacher,
            dispatching(queue, [address]) as dispatcher,
        ):
            teacher.open.clear()
            await submit(queue, "a", "b")
            await until(lambda: teacher.under_way == 2)
            forgotten = queue._jobs["a"]  # as after a crash of Redis with `everysec`
            queue._put_back(forgotten)
            forgotten.attempt -= 1
            await until(lambda: forgotten.attempt == 2)
            teacher.open.set()
            for name in "ab":
                assert (await ended(queue, name)).state is JobState.DONE
            await until(lambda: not dispatcher._claims)
            assert (await queue.job("a")).attempt == 2

    asyncio.run(run())


def test_a_teacher_never_holds_more_than_its_bounds(address: str) -> None:
    async def run() -> None:
        async with MemoryQueue() as queue, serving(ScriptedTeacher(), address) as teacher:
            teacher.open.clear()
            async with dispatching(queue, [address], DispatcherSettings(teacher_tokens=20)):
                await submit(queue, *"abcdef", tokens=8)  # cost 10: two fill the bound
                await until(lambda: teacher.under_way == 2)
                await asyncio.sleep(0.2)
                teacher.open.set()
                for name in "abcdef":
                    assert (await ended(queue, name)).state is JobState.DONE
            assert teacher.most_under_way == 2

    asyncio.run(run())


def test_a_busy_teacher_is_left_alone_for_a_while_and_nothing_is_counted(address: str) -> None:
    async def run() -> None:
        async with (
            MemoryQueue(QueueSettings(max_attempts=1)) as queue,
            serving(ScriptedTeacher(), address) as teacher,
            dispatching(queue, [address]),
        ):
            await submit(queue, "busy a", "b")
            assert (await ended(queue, "busy a")).state is JobState.DONE
            assert (await ended(queue, "b")).state is JobState.DONE
            assert teacher.received.count("busy a") == 2
            assert (await queue.job("busy a")).failures == 0

    asyncio.run(run())


def test_engine_failures_are_tried_three_times_but_not_a_number_is_final(address: str) -> None:
    async def run() -> None:
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), address) as teacher,
            dispatching(queue, [address]),
        ):
            await submit(queue, "broken a", "nan b", "c")
            dead = error_of(await ended(queue, "broken a"))
            assert (dead.reason, dead.details["last_reason"]) == ("DEAD_LETTER", "ENGINE_FAILED")
            assert error_of(await ended(queue, "nan b")).reason == "NOT_FINITE"
            assert (await ended(queue, "c")).state is JobState.DONE
            assert teacher.received.count("broken a") == 3
            assert teacher.received.count("nan b") == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"x", id="no message"),
        pytest.param(b"", id="an empty message"),
        pytest.param(job_to_message(make_job("other")).SerializeToString(), id="another job"),
    ],
)
def test_a_payload_that_is_not_the_job_ends_that_job_only(
    open_queue: Callable[[QueueSettings], JobQueue], address: str, payload: bytes
) -> None:
    async def run() -> None:
        async with (
            open_queue(QueueSettings()) as queue,
            serving(ScriptedTeacher(), address) as teacher,
            dispatching(queue, [address]),
        ):
            teacher.open.clear()
            await submit(queue, "before")
            await until(lambda: teacher.under_way == 1)
            await queue.enqueue(QueuedJob("foreign", "run", 10, payload, timeout=60.0))
            await submit(queue, "after")
            outcome = await ended(queue, "foreign")
            assert outcome.state is JobState.FAILED
            error = error_of(outcome)
            assert isinstance(error, InvalidJob)
            assert (error.reason, error.details) == ("BAD_PAYLOAD", {"job": "foreign"})
            assert (await queue.job("foreign")).attempt == 1
            teacher.open.set()
            for name in ("before", "after"):
                assert (await ended(queue, name)).state is JobState.DONE
                assert (await queue.job(name)).attempt == 1
            assert teacher.received == ["before", "after"]

    asyncio.run(run())


def test_a_lost_teacher_s_jobs_go_back_and_finish_when_it_returns(address: str) -> None:
    async def run() -> None:
        async with MemoryQueue() as queue, dispatching(queue, [address]):
            await submit(queue, *"abc", "nan d")
            async with serving(ScriptedTeacher(), address) as first:
                first.open.clear()
                await ended(queue, "nan d")  # so that those before it have been sent for sure
                await until(lambda: first.under_way == 3)
            await until(lambda: all_queued(queue, *"abc"))
            assert [(await queue.job(name)).failures for name in "abc"] == [1, 1, 1]
            async with serving(ScriptedTeacher(), address) as second:
                for name in "abc":
                    assert (await ended(queue, name)).state is JobState.DONE
            assert second.most_under_way == 1  # what failed before travels alone

    asyncio.run(run())


def test_without_a_teacher_nothing_is_claimed(address: str) -> None:
    async def run() -> None:
        async with MemoryQueue() as queue, dispatching(queue, [address]):
            await submit(queue, "a")
            await asyncio.sleep(0.3)
            assert (await queue.job("a")).attempt == 0
            assert await queue.teacher() is None

    asyncio.run(run())


def test_an_expired_job_costs_no_compute(address: str) -> None:
    async def run() -> None:
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), address) as teacher,
        ):
            await submit(queue, "late", timeout=0.0)
            await submit(queue, "in time")
            async with dispatching(queue, [address]):
                assert error_of(await ended(queue, "late")).reason == "DEADLINE_EXCEEDED"
                assert (await ended(queue, "in time")).state is JobState.DONE
            assert teacher.received == ["in time"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("difference", "told"),
    [({"tokenizer_fingerprint": "0" * 64}, "tokenizer"), ({"model_id": "larger"}, "'larger'")],
)
def test_a_teacher_of_another_kind_is_refused_and_the_others_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, difference: dict[str, str], told: str
) -> None:
    good, other = f"unix://{tmp_path}/good.sock", f"unix://{tmp_path}/other.sock"

    async def run() -> None:
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), good),
            dispatching(queue, [good, other]),
        ):
            await until(lambda: is_connected(queue))
            stranger = ScriptedTeacher()
            stranger.info = replace(stranger.info, **difference)
            async with serving(stranger, other):
                await until(lambda: told in caplog.text)
                await submit(queue, *"abc")
                for name in "abc":
                    assert (await ended(queue, name)).state is JobState.DONE
                assert stranger.received == []

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert all(value in caplog.text for value in difference.values())


def test_two_teachers_share_the_work(tmp_path: Path) -> None:
    addresses = [f"unix://{tmp_path}/{name}.sock" for name in ("one", "two")]

    async def run() -> None:
        async with (
            MemoryQueue() as queue,
            serving(ScriptedTeacher(), addresses[0]) as one,
            serving(ScriptedTeacher(), addresses[1]) as two,
        ):
            one.open.clear()
            two.open.clear()
            await submit(queue, *"abcd")
            async with dispatching(queue, addresses, DispatcherSettings(teacher_jobs=2)):
                await until(lambda: one.under_way == two.under_way == 2)
                one.open.set()
                two.open.set()
                for name in "abcd":
                    assert (await ended(queue, name)).state is JobState.DONE

    asyncio.run(run())


def test_stopping_claims_no_more_and_finishes_what_can_be_finished(address: str) -> None:
    async def run() -> None:
        settings = DispatcherSettings(teacher_jobs=1, drain_seconds=240.0)
        async with MemoryQueue() as queue, serving(ScriptedTeacher(), address) as teacher:
            teacher.open.clear()
            await submit(queue, "a", "b")
            async with dispatching(queue, [address], settings) as dispatcher:
                await until(lambda: teacher.under_way == 1)
                dispatcher.stop()
                async with AsyncScoringClient(address) as client:
                    await client.get_teacher()  # a way there and back, and it still waits
                assert dispatcher.connected
                teacher.open.set()
            assert (await queue.job("a")).state is JobState.DONE
            record = await queue.job("b")
            assert (record.state, record.attempt) == (JobState.QUEUED, 0)

    asyncio.run(run())


def test_stopping_releases_what_cannot_be_finished(address: str) -> None:
    async def run() -> None:
        settings = DispatcherSettings(drain_seconds=0.1)
        async with MemoryQueue() as queue, serving(ScriptedTeacher(), address) as teacher:
            await submit(queue, "hang a")
            async with dispatching(queue, [address], settings):
                await until(lambda: teacher.under_way == 1)
            record = await queue.job("hang a")
            assert (record.state, record.failures) == (JobState.QUEUED, 0)

    asyncio.run(run())


def test_a_queue_that_is_away_does_not_hold_up_the_end(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.dispatcher.LAST_WRITES", 0.1)

    async def away(claim: Claim, **others: Any) -> bool:
        tried.set()
        raise Unavailable("away", reason="QUEUE_AWAY")

    async def run() -> None:
        async with MemoryQueue() as queue, serving(ScriptedTeacher(), address):
            monkeypatch.setattr(queue, "complete", away)
            await submit(queue, "a")
            async with dispatching(queue, [address], DispatcherSettings(drain_seconds=0.1)):
                await tried.wait()
            assert (await queue.job("a")).state is JobState.CLAIMED

    tried = asyncio.Event()
    asyncio.run(run())


def test_common_limits_are_those_that_every_teacher_keeps() -> None:
    large = TeacherInfo("model", "r0", "f" * 64, 64, 4096, 8, "script", "1", 8192)
    long_only = replace(large, max_top_k=2, outputs=("sampled", "top_k", "entropy"))
    small_only = replace(large, max_model_len=100, outputs=("given", "entropy", "sampled"))
    assert common_limits([long_only, small_only]) == replace(
        large, max_top_k=2, max_model_len=100, outputs=("sampled", "entropy")
    )
