"""Messages that no client of ours sends: each is refused by its reason and hurts nothing else."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from counterhint.channel import SERVICE_NAME
from counterhint.errors import error_from_rpc
from counterhint.messages import job_to_message
from counterhint.v1 import scoring_pb2
from services.queue.memory import MemoryQueue
from services.server import serve_intake
from tests.services.scripted_teacher import ScriptedTeacher, make_job

NO_MESSAGE = b"\xff\xff\xff"


@asynccontextmanager
async def channel_to_an_intake(folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    async with MemoryQueue() as queue:
        await queue.publish_teacher(ScriptedTeacher().info, seconds=3600.0)
        address = f"unix://{folder}/intake.sock"
        async with serve_intake(queue, address), grpc.aio.insecure_channel(address) as channel:
            yield channel


def requested(job_id: str, timeout_seconds: float) -> bytes:
    request = scoring_pb2.ScoreStreamRequest(timeout_seconds=timeout_seconds)
    request.job.CopyFrom(job_to_message(make_job(job_id)))
    return request.SerializeToString()


async def streamed(
    channel: grpc.aio.Channel, messages: Sequence[bytes]
) -> tuple[dict[str, str], grpc.aio.AioRpcError | None]:
    """The reasons of a stream's jobs by id, and the error with which it ended."""
    stream = channel.stream_stream(f"/{SERVICE_NAME}/ScoreStream")(timeout=240.0)
    for message in messages:
        await stream.write(message)
    await stream.done_writing()
    reasons = {}
    try:
        async for data in stream:
            reply = scoring_pb2.ScoreStreamResponse.FromString(data)
            reasons[reply.id] = reply.failure.reason
    except grpc.aio.AioRpcError as error:
        return reasons, error
    return reasons, None


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE_NAME}/Score",
        f"/{SERVICE_NAME}/GetTeacher",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
def test_bytes_that_are_no_message_are_refused_without_a_traceback(
    tmp_path: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with channel_to_an_intake(tmp_path) as channel:
            stream = channel.stream_stream(method)(timeout=240.0)
            await stream.write(NO_MESSAGE)
            await stream.done_writing()
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stream.read()
            error = error_from_rpc(refusal.value)
            assert (error.code, error.reason) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                "MALFORMED_MESSAGE",
            )

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert not caplog.records


def test_jobs_before_one_that_cannot_be_read_are_answered(tmp_path: Path) -> None:
    async def run() -> None:
        async with channel_to_an_intake(tmp_path) as channel:
            messages = [requested("early", 0.1), NO_MESSAGE, requested("late", 0.1)]
            reasons, error = await streamed(channel, messages)
            assert reasons == {"early": "DEADLINE_EXCEEDED"}
            assert error is not None
            assert error_from_rpc(error).reason == "MALFORMED_MESSAGE"

    asyncio.run(run())


def test_a_timeout_that_is_none_ends_its_own_job_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with channel_to_an_intake(tmp_path) as channel:
            wrong = {"nan": math.nan, "inf": math.inf, "below": -1.0, "huge": 1e300}
            jobs = [requested(name, seconds) for name, seconds in wrong.items()]
            reasons, error = await streamed(channel, [*jobs, requested("good", 0.1)])
            refused = dict.fromkeys(wrong, "TIMEOUT_OUT_OF_RANGE")
            assert reasons == {**refused, "good": "DEADLINE_EXCEEDED"}
            assert error is None

    asyncio.run(run())
