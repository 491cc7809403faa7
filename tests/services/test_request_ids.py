"""A request id: taken over or made by the intake, sent back, and beside the job in the queue."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from counterhint.channel import open_channel
from counterhint.messages import job_to_message
from counterhint.request_context import REQUEST_ID, TraceContext
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from services.queue.memory import MemoryQueue
from services.queue.records import QueuedJob
from services.server import serve_intake
from tests.services.dispatching import dispatching, ended
from tests.services.scripted_teacher import ScriptedTeacher, make_job, serving

PARENT = f"00-{'1' * 32}-{'2' * 16}-01"


def send(folder: Path, job_id: str, given: str | None) -> tuple[str, str, TraceContext | None]:
    """A job's end, the request id that came back, and what lay beside the job in the queue."""

    async def run() -> tuple[str, str, TraceContext | None]:
        async with MemoryQueue() as queue:
            await queue.publish_teacher(ScriptedTeacher().info, seconds=60.0)
            async with (
                serve_intake(queue, f"unix://{folder}/intake.sock") as address,
                open_channel(address) as channel,
            ):
                metadata = () if given is None else ((REQUEST_ID, given), ("traceparent", PARENT))
                job = job_to_message(make_job(job_id or "a"))
                job.id = job_id
                call: Any = scoring_pb2_grpc.ScoringServiceStub(channel).Score(
                    job, metadata=metadata
                )
                claim = await queue.claim("worker", timeout=240.0 if job_id else 0.0)
                if claim is not None:
                    request = scoring_pb2.ScoreRequest.FromString(claim.payload)
                    response = await ScriptedTeacher()._score(request)
                    await queue.complete(claim, response.SerializeToString())
                sent_back = dict(await call.initial_metadata())[REQUEST_ID]
                try:
                    await call
                except grpc.aio.AioRpcError as error:
                    return error.code().name, sent_back, None
                return "OK", sent_back, claim.trace if claim else None

    return asyncio.run(run())


def test_the_client_s_goes_into_the_queue_and_comes_back(tmp_path: Path) -> None:
    assert send(tmp_path, "a", "mine-1") == ("OK", "mine-1", TraceContext("mine-1", PARENT))


def test_a_refused_job_s_comes_back_as_well(tmp_path: Path) -> None:
    assert send(tmp_path, "", "mine-1") == ("INVALID_ARGUMENT", "mine-1", None)


@pytest.mark.parametrize("given", [None, "two words", "x" * 129])
def test_where_there_is_none_one_is_made(tmp_path: Path, given: str | None) -> None:
    end, sent_back, queued = send(tmp_path, "a", given)
    assert end == "OK"
    assert queued is not None
    assert queued.request_id == sent_back != given
    assert len(sent_back) == 16


def test_the_dispatcher_hands_it_to_the_teacher(tmp_path: Path) -> None:
    """Each job of a stream has its own."""

    async def run() -> None:
        teacher, address = ScriptedTeacher(), f"unix://{tmp_path}/teacher.sock"
        async with (
            MemoryQueue() as queue,
            serving(teacher, address),
            dispatching(queue, [address]),
        ):
            traces = {name: TraceContext(f"request-{name}", PARENT) for name in ("a", "b")}
            for name, trace in traces.items():
                payload = job_to_message(make_job(name)).SerializeToString()
                await queue.enqueue(QueuedJob(name, "run", 6, payload, timeout=60.0, trace=trace))
                await ended(queue, name)
            assert teacher.traces == traces

    asyncio.run(run())
