import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from counterhint import AsyncScoringClient, Outputs, ScoringJob
from counterhint.channel import CHANNEL_OPTIONS, open_channel
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    InvalidJob,
    Overloaded,
    TokenizerMismatch,
)
from counterhint.messages import job_to_message
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from teacher_server import metrics
from teacher_server.engines.base import Engine, Scored
from teacher_server.engines.transformers import TransformersEngine
from tests.teacher_server.jobs import SMALL, plain_log_probs, random_job, tokens_of_pairs
from tests.teacher_server.running import (
    BrokenEngine,
    HeldEngine,
    ZeroEngine,
    gauge,
    refusal,
    running_teacher,
    until,
)


def small_job(engine: Engine, **fields: Any) -> ScoringJob:
    fingerprint = engine.info.tokenizer_fingerprint
    return random_job(**(SMALL | {"tokenizer_fingerprint": fingerprint} | fields))


def with_client(
    engine: Engine, use: Callable[[AsyncScoringClient], Coroutine[Any, Any, None]], **options: Any
) -> None:
    async def run() -> None:
        async with (
            running_teacher(engine, **options) as teacher,
            AsyncScoringClient(teacher.address, timeout=240) as client,
        ):
            await use(client)

    asyncio.run(run())


async def stream(client: AsyncScoringClient, jobs: list[ScoringJob]) -> dict[str, Any]:
    async def requests() -> AsyncIterator[ScoringJob]:
        for job in jobs:
            yield job

    return {id: outcome async for id, outcome in client.score_stream(requests())}


def test_a_teacher_tells_what_it_is(engine):
    async def use(client: AsyncScoringClient) -> None:
        assert await client.get_teacher() == engine.info

    with_client(engine, use)


def test_a_score_is_stamped_and_equal_to_plain_forward_passes(engine: TransformersEngine):
    job = small_job(engine)

    async def use(client: AsyncScoringClient) -> None:
        result = await client.score(job)
        expected = plain_log_probs(engine.model, job)[np.arange(11), tokens_of_pairs(job)]
        np.testing.assert_allclose(result.scores.sampled, expected, atol=1e-4)
        assert result.weights_revision == engine.info.weights_revision
        assert result.tokenizer_fingerprint == engine.info.tokenizer_fingerprint
        assert (result.cost.tokens_naive, result.cost.tokens_computed) == (26, 22)
        assert result.cost.engine_seconds > 0

    with_client(engine, use)


REFUSED = {
    "negative id": ({"seed": -1}, InvalidJob, "TOKEN_ID_OUT_OF_RANGE"),
    "id beyond the vocabulary": ({"seed": 64}, InvalidJob, "TOKEN_ID_OUT_OF_RANGE"),
    "top-k too large": ({"outputs": Outputs(top_k=65)}, InvalidJob, "TOP_K_TOO_LARGE"),
    "pair too long": ({"contexts": (7, 256)}, InvalidJob, "PAIR_TOO_LONG"),
    "other tokenizer": ({"tokenizer_fingerprint": "0"}, TokenizerMismatch, "TOKENIZER_MISMATCH"),
    "job too large": (
        {"contexts": (200, 200), "responses": (51, 50)},
        Overloaded,
        "JOB_TOO_LARGE",
    ),
    "reply too large": (
        {"outputs": Outputs(given=True), "given": 45_000, "pairs": [(0, 0)] * 80},
        Overloaded,
        "REPLY_TOO_LARGE",
    ),
    "no pair": ({"pairs": []}, InvalidJob, "NO_PAIR"),
    "pair out of range": ({"pairs": [(0, 0), (2, 0)]}, InvalidJob, "PAIR_OUT_OF_RANGE"),
    "empty context": ({"contexts": (7, 0)}, InvalidJob, "EMPTY_CONTEXT"),
    "no output": ({"outputs": Outputs(sampled=False)}, InvalidJob, "NO_OUTPUT"),
}


@pytest.mark.parametrize(("fields", "kind", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_job_that_can_never_succeed_is_refused(engine, fields, kind, reason):
    wrong_id = fields.get("seed") if reason == "TOKEN_ID_OUT_OF_RANGE" else None
    job = small_job(engine, **(fields if wrong_id is None else {}))
    if wrong_id is not None:
        response = job.responses[0].copy()
        response[3] = wrong_id
        job = replace(job, responses=(response, job.responses[1]))

    async def use(client: AsyncScoringClient) -> None:
        with pytest.raises(kind) as refused:
            await client.score(job)
        assert refused.value.reason == reason
        assert refused.value.retry_after == 0
        if reason == "PAIR_TOO_LONG":
            assert refused.value.details["tokens"] == "261"
            assert refused.value.details["max_model_len"] == "256"

    with_client(engine, use)


def test_one_bad_job_of_a_stream_leaves_the_others_alone(engine):
    jobs = [small_job(engine, id=name, seed=seed) for seed, name in enumerate("abcdef")]
    jobs[2] = replace(jobs[2], tokenizer_fingerprint="other")

    async def use(client: AsyncScoringClient) -> None:
        outcomes = await stream(client, jobs)
        assert sorted(outcomes) == list("abcdef")
        assert isinstance(outcomes.pop("c"), TokenizerMismatch)
        for job in jobs:
            if job.id in outcomes:
                expected = plain_log_probs(engine.model, job)[np.arange(11), tokens_of_pairs(job)]
                sampled = outcomes[job.id].scores.sampled
                np.testing.assert_allclose(sampled, expected, atol=1e-4)

    with_client(engine, use)


def test_numbers_that_are_not_finite_and_crashes_are_typed_errors(engine):
    jobs = [small_job(engine, id=name) for name in ("crash", "nan", "odd", "good")]

    async def use(client: AsyncScoringClient) -> None:
        outcomes = await stream(client, jobs)
        assert isinstance(outcomes["nan"], EngineFailure)
        assert (outcomes["nan"].reason, outcomes["nan"].details["row"]) == ("NOT_FINITE", "2")
        assert isinstance(outcomes["crash"], EngineFailure)
        assert outcomes["crash"].reason == "ENGINE_FAILED"
        assert isinstance(outcomes["odd"], EngineFailure)
        assert outcomes["odd"].reason == "SERVER_FAILED"
        assert not isinstance(outcomes["good"], CounterhintError)

    with_client(BrokenEngine(engine), use)


def tokens_taken() -> float:
    """Of the jobs that wait or run."""
    return gauge(metrics.TOKENS_WAITING) + gauge(metrics.TOKENS_RUNNING)


def test_a_full_teacher_refuses_with_a_delay_and_serves_the_others_in_order(engine):
    async def run() -> None:
        held = HeldEngine(engine)
        async with running_teacher(held, max_queued_tokens=66) as teacher:
            channel = open_channel(teacher.address)
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            calls = []
            for taken, name in enumerate("abc", 1):
                calls.append(stub.Score(job_to_message(small_job(engine, id=name))))
                await until(lambda taken=taken: tokens_taken() == 22 * taken)
            for name in "de":
                busy = await refusal(stub, small_job(engine, id=name))
                assert isinstance(busy, Overloaded)
                assert busy.code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert busy.reason == "TEACHER_BUSY"
                assert busy.retry_after > 0
            await until(lambda: held.started)
            assert held.started == ["a"]
            held.release.set()
            assert [(await call).id for call in calls] == ["a", "b", "c"]
            assert held.started == ["a", "b", "c"]
            await channel.close()

    asyncio.run(run())


def test_a_deadline_that_passes_in_the_queue_costs_no_compute(engine):
    async def run() -> None:
        held = HeldEngine(engine)
        async with (
            running_teacher(held) as teacher,
            AsyncScoringClient(teacher.address) as client,
            AsyncScoringClient(teacher.address, timeout=0.2) as hurried,
        ):
            first = asyncio.create_task(client.score(small_job(engine, id="first")))
            await until(lambda: held.started)
            with pytest.raises(DeadlinePassed):
                await client.score(small_job(engine, id="late"), timeout=0.2)
            outcomes = await stream(hurried, [small_job(engine, id="late on a stream")])
            assert isinstance(outcomes["late on a stream"], DeadlinePassed)
            await until(lambda: gauge(metrics.TOKENS_WAITING) == 0)  # both have left the queue
            held.release.set()
            assert (await first).job_id == "first"
            assert (await client.score(small_job(engine, id="next"))).job_id == "next"
            assert held.started == ["first", "next"]

    asyncio.run(run())


def test_a_client_that_goes_ends_its_job(engine):
    async def run() -> None:
        held = HeldEngine(engine)
        async with running_teacher(held) as teacher:
            for score in ("unary", "stream"):
                client = AsyncScoringClient(teacher.address)
                job = small_job(engine, id=score)
                call = client.score(job) if score == "unary" else stream(client, [job])
                task = asyncio.create_task(call)
                await until(lambda name=score: name in held.started)
                task.cancel()
                await client.close()
                await until(lambda name=score: name in held.cancelled)
            held.release.set()
            async with AsyncScoringClient(teacher.address) as client:
                assert (await client.score(small_job(engine, id="after"))).job_id == "after"

    asyncio.run(run())


def test_a_reader_that_takes_no_replies_holds_up_itself_alone(engine):
    async def run() -> None:
        started: list[str] = []

        class Watched(BrokenEngine):
            async def score(self, job: ScoringJob) -> Scored:
                started.append(job.id)
                return await super().score(job)

        async with running_teacher(Watched(engine), stream_jobs=2) as teacher:
            channel = open_channel(teacher.address)
            call = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream()
            # Replies of about 1.5 MB: flow control stops the server long before all are written.
            large = {"contexts": (4,), "responses": (240,), "pairs": [(0, 0)], "given": 800}
            outputs = Outputs(given=True)

            async def send() -> None:
                for index in range(30):
                    job = small_job(engine, id=f"{index}", outputs=outputs, **large)
                    await call.write(scoring_pb2.ScoreStreamRequest(job=job_to_message(job)))

            sending = asyncio.create_task(send())
            await until(lambda: any(id.isdecimal() for id in started))
            async with AsyncScoringClient(teacher.address) as other:
                for index in range(40):
                    job = small_job(engine, id=f"other {index}")
                    assert (await other.score(job)).job_id == job.id
            unread = [id for id in started if id.isdecimal()]
            assert 0 < len(unread) < 30
            sending.cancel()
            call.cancel()
            await channel.close()

    asyncio.run(run())


def test_a_reader_that_takes_no_replies_is_cut_off_and_its_memory_given_back():
    class Watched(ZeroEngine):
        most_held = 0.0

        async def score(self, job: ScoringJob) -> Scored:
            self.most_held = max(self.most_held, gauge(metrics.HELD_BYTES))
            return await super().score(job)

    zero = Watched()
    zero.info = replace(zero.info, max_job_tokens=1_000_000)
    # Small requests with replies of 384,000 bytes, five of which are all that may be held.
    large = {"contexts": (4,), "responses": (240,), "pairs": [(0, 0)] * 400}

    async def run() -> None:
        # Long enough for five jobs on a busy machine.
        async with running_teacher(zero, send_seconds=3, max_held_bytes=2_000_000) as teacher:
            # Without probes, flow control stops the server after 64 KiB.
            options = [*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0)]
            channel = grpc.aio.insecure_channel(teacher.address, options=options)
            call = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream()
            for index in range(10):
                job = small_job(zero, id=f"{index}", **large)
                await call.write(scoring_pb2.ScoreStreamRequest(job=job_to_message(job)))
            await until(lambda: zero.most_held == 5 * 384_000)
            async with AsyncScoringClient(teacher.address) as other:
                # There is no room for this one until the reader was cut off.
                assert (await other.score(small_job(zero, id="other", **large))).job_id == "other"
            taken = 0
            with pytest.raises(grpc.aio.AioRpcError, match="read what this stream sends"):  # noqa: PT012
                while True:
                    assert (await call.read()).HasField("response")
                    taken += 1
            assert taken < 10
            await until(lambda: gauge(metrics.HELD_BYTES) == 0)
            assert zero.most_held == 5 * 384_000
            await channel.close()

    asyncio.run(run())
