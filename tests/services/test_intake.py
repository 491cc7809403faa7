"""The intake: what it refuses before the queue, and how calls and jobs belong together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterhint.channel import open_channel
from counterhint.client import AsyncScoringClient
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    InvalidJob,
    JobCancelled,
    JobConflict,
    Overloaded,
    TokenizerMismatch,
    Unavailable,
    error_from_rpc,
)
from counterhint.jobs import ScoringJob, pairs_array
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.records import Claim, QueueSettings
from services.server import serve_intake
from tests.services.dispatching import until
from tests.services.scripted_teacher import ScriptedTeacher, expected_scores, make_job

Test = Callable[[JobQueue, AsyncScoringClient], Awaitable[None]]


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/intake.sock"


def with_intake(
    address: str, test: Test, settings: QueueSettings | None = None, *, teacher: bool = True
) -> None:
    """Runs a test against an intake whose queue no dispatcher reads."""

    async def run() -> None:
        async with MemoryQueue(settings) as queue:
            if teacher:
                await queue.publish_teacher(ScriptedTeacher().info, seconds=3600.0)
            async with (
                serve_intake(queue, address),
                AsyncScoringClient(address, timeout=240.0) as client,
            ):
                await test(queue, client)

    asyncio.run(run())


async def next_claim(queue: JobQueue) -> Claim:
    claim = await queue.claim("worker", timeout=240.0)
    assert claim is not None
    return claim


async def answer(queue: JobQueue, claim: Claim) -> None:
    """Scores a claim as a teacher would."""
    request = scoring_pb2.ScoreRequest.FromString(claim.payload)
    response = await ScriptedTeacher()._score(request)
    assert await queue.complete(claim, response.SerializeToString())


def test_a_job_is_queued_with_its_cost_and_comes_back_with_its_wait(address: str) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        job = replace(make_job("a", tokens=7), priority=3)
        call = asyncio.create_task(client.score(job, timeout=1000.0))
        await asyncio.sleep(0.1)
        claim = await next_claim(queue)
        assert (claim.run_id, claim.cost) == ("run", 9)
        # The call's own, which gRPC rounds up, and not the client's 240 or the queue's day.
        assert 600.0 < claim.timeout < 1100.0
        assert (await queue.job("a")).priority == 3
        await answer(queue, claim)
        result = await call
        np.testing.assert_array_equal(result.scores.sampled, expected_scores(job))
        assert result.cost.wait_seconds == pytest.approx(0.25 + claim.wait_seconds)

    with_intake(address, test)


def test_without_a_teacher_it_says_so_and_is_not_ready(address: str) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        async with open_channel(address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.GetTeacher(scoring_pb2.GetTeacherRequest())
            error = error_from_rpc(refusal.value)
            assert isinstance(error, Unavailable)
            assert error.reason == "NO_TEACHER"
            assert error.retry_after > 0
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            states = health_pb2.HealthCheckResponse
            assert (await watch.read()).status == states.NOT_SERVING
            await queue.publish_teacher(ScriptedTeacher().info, seconds=60.0)
            assert (await watch.read()).status == states.SERVING
        assert await client.get_teacher() == ScriptedTeacher().info

    with_intake(address, test, teacher=False)


@pytest.mark.parametrize(
    ("job", "error", "reason"),
    [
        (make_job("a", tokens=4095), InvalidJob, "PAIR_TOO_LONG"),
        (make_job("a", fingerprint="0" * 64), TokenizerMismatch, "TOKENIZER_MISMATCH"),
        (make_job(""), InvalidJob, "NO_ID"),
        (
            replace(make_job("a"), contexts=(np.array([64], dtype=np.int32),)),
            InvalidJob,
            "TOKEN_ID_OUT_OF_RANGE",
        ),
    ],
)
def test_what_no_teacher_can_score_never_reaches_the_queue(
    address: str, job: ScoringJob, error: type[Exception], reason: str
) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        with pytest.raises(error) as refusal:
            await client.score(job)
        assert refusal.value.reason == reason
        assert await queue.stats() == []

    with_intake(address, test)


def test_a_job_above_the_bound_passes_if_each_context_s_share_keeps_it(address: str) -> None:
    """The dispatcher splits between contexts, and nowhere else."""
    contexts = tuple(np.full(3000, token, dtype=np.int32) for token in range(4))
    pairs = pairs_array([(context, 0) for context in range(4)])
    large = replace(make_job("a", tokens=1000), contexts=contexts, pairs=pairs)
    too_large = replace(large, id="b", pairs=pairs_array([(2, 0)] * 6))

    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        assert large.tokens_computed > (await client.get_teacher()).max_job_tokens
        call = asyncio.create_task(client.score(large))
        claim = await next_claim(queue)
        await queue.fail(claim, EngineFailure("no", reason="ENGINE_FAILED"), retryable=False)
        with pytest.raises(EngineFailure):
            await call
        with pytest.raises(Overloaded, match="context 2 ") as refusal:
            await client.score(too_large)
        assert (refusal.value.reason, refusal.value.retry_after) == ("JOB_TOO_LARGE", 0)
        assert refusal.value.details["tokens"] == "9000"

    with_intake(address, test)


def test_a_full_queue_asks_to_come_back_later(address: str) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        first = asyncio.create_task(client.score(make_job("a")))
        claim = await next_claim(queue)
        refused: asyncio.Queue[CounterhintError] = asyncio.Queue()
        async with AsyncScoringClient(
            address, timeout=240.0, on_retry=refused.put_nowait
        ) as another:
            second = asyncio.create_task(another.score(make_job("b")))
            for _ in range(2):
                refusal = await refused.get()
                assert isinstance(refusal, Overloaded)
                assert (refusal.reason, refusal.retry_after) == ("QUEUE_FULL", 0.2)
            await answer(queue, claim)
            await first
            await answer(queue, await next_claim(queue))
            assert (await second).job_id == "b"

    with_intake(address, test, QueueSettings(max_jobs=1, retry_after=0.2, max_retry_after=0.2))


def test_calls_for_the_same_job_share_its_result(address: str) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        calls = [asyncio.create_task(client.score(make_job("a"))) for _ in range(3)]
        await answer(queue, await next_claim(queue))
        results = [await call for call in calls]
        later = await client.score(make_job("a"))
        for result in (*results, later):
            np.testing.assert_array_equal(result.scores.sampled, expected_scores(make_job("a")))
        assert (await queue.stats())[0].done == 1
        with pytest.raises(JobConflict):
            await client.score(make_job("a", tokens=5))

    with_intake(address, test)


def test_the_job_of_a_client_that_went_away_is_kept(address: str) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        call = asyncio.create_task(client.score(make_job("a")))
        claim = await next_claim(queue)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(0.1)
        await answer(queue, claim)
        assert (await client.score(make_job("a"))).job_id == "a"

    with_intake(address, test)


def test_a_job_whose_time_is_over_is_not_computed(address: str) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        with pytest.raises(DeadlinePassed):
            await client.score(make_job("a"), timeout=0.2)

        async def none_waits() -> bool:
            await queue.reap()
            return not any(run.queued for run in await queue.stats())

        await until(none_waits)  # the queue counts from when it got the job
        assert await queue.claim("worker", timeout=0.2) is None

    with_intake(address, test)


def test_failures_and_cancellations_arrive_as_typed_errors(address: str) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        call = asyncio.create_task(client.score(make_job("a")))
        claim = await next_claim(queue)
        await queue.fail(claim, InvalidJob("no", reason="SOMETHING"), retryable=False)
        with pytest.raises(InvalidJob) as failure:
            await call
        assert failure.value.reason == "SOMETHING"
        call = asyncio.create_task(client.score(make_job("b")))
        await queue.cancel((await next_claim(queue)).id)
        with pytest.raises(JobCancelled):
            await call

    with_intake(address, test)


def test_a_stream_answers_each_job_by_its_id_as_it_finishes(address: str) -> None:
    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        async def jobs() -> AsyncIterator[ScoringJob]:
            for job in (make_job("a"), make_job("bad", tokens=4095), make_job("b")):
                yield job

        outcomes = client.score_stream(jobs())
        first, error = await anext(outcomes)
        assert first == "bad"
        assert isinstance(error, InvalidJob)
        claims = [await next_claim(queue), await next_claim(queue)]
        for claim, job_id in zip(reversed(claims), "ba", strict=True):
            await answer(queue, claim)
            assert (await anext(outcomes))[0] == job_id
        assert [outcome async for outcome in outcomes] == []

    with_intake(address, test)


def test_an_intake_that_shuts_down_sends_its_clients_to_the_next(address: str) -> None:
    async def run() -> None:
        async with MemoryQueue() as queue, AsyncScoringClient(address) as client:
            await queue.publish_teacher(ScriptedTeacher().info, seconds=60.0)
            async with serve_intake(queue, address):
                call = asyncio.create_task(client.score(make_job("a")))
                claim = await next_claim(queue)
            async with serve_intake(queue, address):
                await answer(queue, claim)
                assert (await call).job_id == "a"

    asyncio.run(run())


def test_reflection_names_the_service(address: str) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        async with open_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            stream = stub.ServerReflectionInfo(iter([question]))
            services = (await stream.read()).list_services_response.service
        assert "counterhint.v1.ScoringService" in {service.name for service in services}

    with_intake(address, test)


def test_a_second_intake_on_the_address_is_refused(address: str) -> None:
    from counterhint.errors import InputError

    async def test(queue: JobQueue, client: AsyncScoringClient) -> None:
        with pytest.raises(InputError, match="listens there already"):
            async with serve_intake(queue, address):
                pass

    with_intake(address, test)
