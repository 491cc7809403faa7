"""The clients against real gRPC servers."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest

from counterhint.client import AsyncScoringClient, ScoringClient
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    InvalidJob,
    Overloaded,
    TokenizerMismatch,
    Unavailable,
)
from counterhint.jobs import ScoringJob, ScoringResult
from counterhint.messages import result_to_message
from counterhint.request_context import TraceContext, working_for
from counterhint.v1 import scoring_pb2
from tests.counterhint.examples import TEACHER, make_job, make_result
from tests.counterhint.scripted_server import (
    Answer,
    ScriptedService,
    server_in_a_thread,
    serving,
)
from tests.processes import wait_until

T = TypeVar("T")


def fails_first(*errors: CounterhintError) -> Answer:
    """An answer that raises these errors one after another, and then scores."""
    left = list(errors)

    async def answer(job: ScoringJob) -> ScoringResult:
        if left:
            raise left.pop(0)
        return make_result(job)

    return answer


def score_once(
    service: ScriptedService, socket: Path, *, timeout: float = 120.0
) -> tuple[ScoringResult, list[CounterhintError]]:
    """The result of one job, and the errors after which the client tried again."""

    async def run() -> tuple[ScoringResult, list[CounterhintError]]:
        retries: list[CounterhintError] = []
        async with (
            serving(service, socket) as address,
            AsyncScoringClient(address, timeout=timeout, on_retry=retries.append) as client,
        ):
            return await client.score(make_job()), retries

    return asyncio.run(run())


def test_a_job_is_scored(tmp_path: Path) -> None:
    service = ScriptedService()
    result, retries = score_once(service, tmp_path / "s", timeout=120.0)
    np.testing.assert_array_equal(result.pair(1).sampled, np.float32([-3, -4]))  # type: ignore[arg-type]
    assert retries == []
    # The client's own, which gRPC rounds up, and not its default of 600.
    assert 0 < service.timeouts[0] < 300.0


def test_it_tries_again_while_nobody_can_score(tmp_path: Path) -> None:
    unavailable = Unavailable("the engine restarts", reason="ENGINE_DOWN")
    service = ScriptedService(fails_first(unavailable, unavailable))
    _, retries = score_once(service, tmp_path / "s")
    assert service.seen == ["job"] * 3
    assert [error.reason for error in retries] == ["ENGINE_DOWN"] * 2


def test_all_tries_of_a_call_have_one_request_id_and_each_call_its_own(tmp_path: Path) -> None:
    closed = Unavailable("not now", reason="DRAINING", retry_after=0.01)
    service = ScriptedService(fails_first(closed, closed))
    score_once(service, tmp_path / "s")
    score_once(service, tmp_path / "t")
    *tries, other = [trace.request_id for trace in service.traces]
    assert len(tries) == 3
    assert len(set(tries)) == 1
    assert other not in tries


def test_a_caller_s_own_request_id_goes_with_its_jobs(tmp_path: Path) -> None:
    given = TraceContext("mine", f"00-{'1' * 32}-{'2' * 16}-01")
    service = ScriptedService()

    async def jobs() -> AsyncIterator[ScoringJob]:
        yield make_job("streamed")

    async def run() -> None:
        async with (
            serving(service, tmp_path / "s") as address,
            AsyncScoringClient(address) as client,
        ):
            with working_for("", "", given):
                await client.score(make_job("called"))
                assert [id async for id, _ in client.score_stream(jobs())] == ["streamed"]

    asyncio.run(run())
    assert service.traces == [given, given]


def test_it_waits_for_a_server_that_comes_up_later(tmp_path: Path) -> None:
    async def run() -> list[CounterhintError]:
        retries: list[CounterhintError] = []
        failed_once = asyncio.Event()

        def note(error: CounterhintError) -> None:
            retries.append(error)
            failed_once.set()

        async with AsyncScoringClient(
            f"unix://{tmp_path / 's'}", timeout=240.0, on_retry=note
        ) as client:
            call = asyncio.create_task(client.score(make_job()))
            await failed_once.wait()
            async with serving(ScriptedService(), tmp_path / "s"):
                await call
        return retries

    assert all(isinstance(error, Unavailable) for error in asyncio.run(run()))


def test_it_gives_up_at_the_time_out_with_the_last_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr("counterhint.client.time", SimpleNamespace(monotonic=lambda: clock))
    retries: list[CounterhintError] = []

    def note(error: CounterhintError) -> None:
        nonlocal clock
        retries.append(error)
        clock += 100.0 * len(retries)  # the second failure is beyond the time-out

    async def run() -> None:
        address = f"unix://{tmp_path / 'nobody'}"
        async with AsyncScoringClient(address, on_retry=note) as client:
            await client.score(make_job(), timeout=250.0)

    with pytest.raises(Unavailable):
        asyncio.run(run())
    assert len(retries) == 2


def test_a_teacher_that_says_nothing_is_as_one_that_is_not_there(tmp_path: Path) -> None:
    class Silent(ScriptedService):
        async def GetTeacher(  # noqa: N802
            self, request: scoring_pb2.GetTeacherRequest, context: Any
        ) -> scoring_pb2.GetTeacherResponse:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")

    async def run() -> None:
        async with (
            serving(Silent(), tmp_path / "s") as address,
            AsyncScoringClient(address) as client,
        ):
            await client.get_teacher(timeout=0.5)

    with pytest.raises(Unavailable):
        asyncio.run(run())


def test_a_call_that_takes_longer_than_the_time_out_is_over(tmp_path: Path) -> None:
    async def never(job: ScoringJob) -> ScoringResult:
        await asyncio.sleep(3600)
        return make_result(job)

    service = ScriptedService(never)
    with pytest.raises(DeadlinePassed):
        score_once(service, tmp_path / "s", timeout=0.3)
    assert service.seen in (["job"], [])  # nothing when the machine took as long to send it


@pytest.mark.parametrize(
    "error",
    [
        InvalidJob("pair 0 is too long", reason="PAIR_TOO_LONG"),
        Overloaded("too large for ever", reason="JOB_TOO_LARGE"),
        EngineFailure("NaN", reason="NOT_FINITE"),
        TokenizerMismatch("ours", "theirs"),
    ],
)
def test_what_cannot_succeed_is_not_tried_again(error: CounterhintError, tmp_path: Path) -> None:
    service = ScriptedService(fails_first(error))
    with pytest.raises(type(error), match=error.message) as caught:
        score_once(service, tmp_path / "s")
    assert caught.value.reason == error.reason
    assert service.seen == ["job"]


def test_a_full_queue_is_tried_again_no_earlier_than_it_asks(tmp_path: Path) -> None:
    full = Overloaded("the queue is full", reason="QUEUE_FULL", retry_after=0.8)
    times: list[float] = []
    answer = fails_first(full)

    async def timed(job: ScoringJob) -> ScoringResult:
        times.append(asyncio.get_running_loop().time())
        return await answer(job)

    _, retries = score_once(ScriptedService(timed), tmp_path / "s")
    assert retries[0].retry_after == pytest.approx(0.8)
    assert times[1] - times[0] >= 0.8 - 0.05  # the clock's grain, not a bound on speed


def test_the_tokenizer_is_checked_before_anything_is_scored(tmp_path: Path) -> None:
    async def run(fingerprint: str) -> str:
        async with (
            serving(ScriptedService(), tmp_path / "s") as address,
            AsyncScoringClient(address) as client,
        ):
            return (await client.check_tokenizer(fingerprint)).model_id

    assert asyncio.run(run(TEACHER.tokenizer_fingerprint)) == TEACHER.model_id
    with pytest.raises(TokenizerMismatch) as caught:
        asyncio.run(run("another"))
    assert caught.value.details == {
        "requested": "another",
        "teacher": TEACHER.tokenizer_fingerprint,
    }


def test_an_answer_to_another_job_is_refused(tmp_path: Path) -> None:
    async def confused(job: ScoringJob) -> ScoringResult:
        return make_result(make_job("another"))

    with pytest.raises(EngineFailure, match="'another' was answered"):
        score_once(ScriptedService(confused), tmp_path / "s")


async def jobs_of(*ids: str) -> AsyncIterator[ScoringJob]:
    for job_id in ids:
        yield make_job(job_id)


def test_a_stream_gives_outcomes_in_the_order_in_which_they_finish(tmp_path: Path) -> None:
    second_is_done = asyncio.Event()

    async def answer(job: ScoringJob) -> ScoringResult:
        if job.id == "first":
            await second_is_done.wait()
        if job.id == "broken":
            raise InvalidJob("no such token", reason="TOKEN_ID_OUT_OF_RANGE")
        return make_result(job)

    async def run() -> dict[str, ScoringResult | CounterhintError]:
        outcomes: dict[str, ScoringResult | CounterhintError] = {}
        service = ScriptedService(answer)
        async with (
            serving(service, tmp_path / "s") as address,
            AsyncScoringClient(address, timeout=30.0) as client,
        ):
            async for job_id, outcome in client.score_stream(jobs_of("first", "second", "broken")):
                outcomes[job_id] = outcome
                if len(outcomes) == 2:
                    second_is_done.set()
        assert service.timeouts == [30.0] * 3
        return outcomes

    outcomes = asyncio.run(run())
    assert list(outcomes)[-1] == "first"
    assert isinstance(outcomes["first"], ScoringResult)
    assert isinstance(outcomes["second"], ScoringResult)
    broken = outcomes["broken"]
    assert isinstance(broken, InvalidJob)
    assert broken.reason == "TOKEN_ID_OUT_OF_RANGE"


class StrangeService(ScriptedService):
    """Answers every job of a stream with one prepared reply."""

    def __init__(self, reply: scoring_pb2.ScoreStreamResponse) -> None:
        super().__init__()
        self.reply = reply

    async def ScoreStream(self, requests: AsyncIterator[Any], context: Any) -> None:  # noqa: N802
        async for _ in requests:
            await context.write(self.reply)


def stream_with(reply: scoring_pb2.ScoreStreamResponse, socket: Path) -> list[object]:
    async def run() -> list[object]:
        async with (
            serving(StrangeService(reply), socket) as address,
            AsyncScoringClient(address) as client,
        ):
            return [outcome async for _, outcome in client.score_stream(jobs_of("job"))]

    return asyncio.run(run())


def test_a_streams_answer_to_no_job_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(EngineFailure, match="'nobody', which is no job under way"):
        stream_with(scoring_pb2.ScoreStreamResponse(id="nobody"), tmp_path / "s")


def test_a_damaged_answer_on_a_stream_concerns_its_job_alone(tmp_path: Path) -> None:
    response = result_to_message(make_result(make_job("job")))
    response.scores.sampled.data = b"\0"
    (outcome,) = stream_with(
        scoring_pb2.ScoreStreamResponse(id="job", response=response), tmp_path / "s"
    )
    assert isinstance(outcome, CounterhintError)
    assert "scores.sampled" in outcome.message


def test_a_stream_that_breaks_is_a_typed_error(tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncScoringClient(f"unix://{tmp_path / 'nobody'}") as client:
            async for _ in client.score_stream(jobs_of("job")):
                pass

    with pytest.raises(Unavailable):
        asyncio.run(run())


def test_submitted_jobs_are_under_way_at_the_same_time(tmp_path: Path) -> None:
    both_here = threading.Barrier(2)  # passes only when two jobs are under way at once

    async def answer(job: ScoringJob) -> ScoringResult:
        await asyncio.to_thread(both_here.wait)
        return make_result(job)

    with (
        server_in_a_thread(ScriptedService(answer), tmp_path / "s") as address,
        ScoringClient(address, timeout=60.0) as client,
    ):
        futures = [client.submit(make_job(job_id)) for job_id in ("a", "b")]
        assert [future.result(60).job_id for future in futures] == ["a", "b"]


def test_the_synchronous_client_gives_the_same_answers_and_errors(tmp_path: Path) -> None:
    error = InvalidJob("no such token", reason="TOKEN_ID_OUT_OF_RANGE")
    with (
        server_in_a_thread(ScriptedService(fails_first(error)), tmp_path / "s") as address,
        ScoringClient(address, timeout=60.0) as client,
    ):
        with pytest.raises(InvalidJob, match="no such token"):
            client.score(make_job())
        np.testing.assert_array_equal(
            client.score(make_job()).scores.sampled,  # type: ignore[arg-type]
            make_result(make_job()).scores.sampled,  # type: ignore[arg-type]
        )
        assert client.get_teacher() == TEACHER
        with pytest.raises(TokenizerMismatch):
            client.check_tokenizer("another")


def outcome_of(future: Future[T]) -> BaseException | None:
    try:
        return future.exception(240)
    except CancelledError as error:
        return error


def test_work_of_several_calls_does_not_block(tmp_path: Path) -> None:
    go_on = threading.Event()

    async def answer(job: ScoringJob) -> ScoringResult:
        await asyncio.to_thread(go_on.wait, 60)
        return make_result(job)

    async def work(client: AsyncScoringClient) -> list[str]:
        first = await client.score(make_job("first"))
        second = await client.score(make_job(f"{first.job_id}, second"))
        return [first.job_id, second.job_id]

    with (
        server_in_a_thread(ScriptedService(answer), tmp_path / "s") as address,
        ScoringClient(address, timeout=60.0) as client,
    ):
        future = client.start(work)
        assert not future.done()
        go_on.set()
        assert future.result(60) == ["first", "first, second"]


def test_closing_ends_a_call_under_way(tmp_path: Path) -> None:
    async def never(job: ScoringJob) -> ScoringResult:
        await asyncio.sleep(3600)
        return make_result(job)

    service = ScriptedService(never)
    with server_in_a_thread(service, tmp_path / "s") as address:
        client = ScoringClient(address)
        future = client.submit(make_job())
        wait_until(lambda: service.seen)
        client.close()
        assert isinstance(outcome_of(future), CancelledError)


def test_closing_ends_a_call_that_waits_for_its_next_try(tmp_path: Path) -> None:
    retried = threading.Event()
    client = ScoringClient(f"unix://{tmp_path / 'nobody'}", on_retry=lambda error: retried.set())
    future = client.submit(make_job())
    assert retried.wait(240)
    client.close()
    assert isinstance(outcome_of(future), CancelledError)
