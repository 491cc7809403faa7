"""A real grpc.aio server on a unix socket, whose answers a test writes."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from counterhint.channel import SERVER_OPTIONS
from counterhint.errors import CounterhintError, error_to_status, failure_to_message
from counterhint.jobs import ScoringJob, ScoringResult, TeacherInfo
from counterhint.messages import job_from_message, result_to_message, teacher_to_message
from counterhint.request_context import TraceContext, accept_message, accept_metadata
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from tests.counterhint.examples import TEACHER, make_result

Answer = Callable[[ScoringJob], Awaitable[ScoringResult]]


async def answer_at_once(job: ScoringJob) -> ScoringResult:
    return make_result(job)


@dataclass
class ScriptedService(scoring_pb2_grpc.ScoringServiceServicer):
    """Answers jobs by a function; a typed error that it raises is what the client gets."""

    answer: Answer = answer_at_once
    teacher: TeacherInfo = TEACHER
    seen: list[str] = field(default_factory=list)
    """Ids of the jobs in the order in which they came."""
    timeouts: list[float] = field(default_factory=list)
    """Seconds that the client gave each of them."""
    traces: list[TraceContext] = field(default_factory=list)
    """What followed each of them."""

    async def GetTeacher(  # noqa: N802
        self, request: scoring_pb2.GetTeacherRequest, context: Any
    ) -> scoring_pb2.GetTeacherResponse:
        return teacher_to_message(self.teacher)

    async def Score(  # noqa: N802
        self, request: scoring_pb2.ScoreRequest, context: Any
    ) -> scoring_pb2.ScoreResponse:
        self.seen.append(request.id)
        self.timeouts.append(context.time_remaining())
        self.traces.append(accept_metadata(context.invocation_metadata()))
        try:
            return result_to_message(await self.answer(job_from_message(request)))
        except CounterhintError as error:
            await context.abort_with_status(error_to_status(error))
            raise

    async def ScoreStream(  # noqa: N802
        self, requests: AsyncIterator[scoring_pb2.ScoreStreamRequest], context: Any
    ) -> None:
        writing = asyncio.Lock()  # gRPC takes one message at a time

        async def reply(request: scoring_pb2.ScoreStreamRequest) -> None:
            self.seen.append(request.job.id)
            self.timeouts.append(request.timeout_seconds)
            self.traces.append(accept_message(request.trace))
            message = scoring_pb2.ScoreStreamResponse(id=request.job.id)
            try:
                result = await self.answer(job_from_message(request.job))
            except CounterhintError as error:
                message.failure.CopyFrom(failure_to_message(error))
            else:
                message.response.CopyFrom(result_to_message(result))
            async with writing:
                await context.write(message)

        async with asyncio.TaskGroup() as tasks:
            async for request in requests:
                tasks.create_task(reply(request))


@asynccontextmanager
async def serving(
    service: scoring_pb2_grpc.ScoringServiceServicer, socket: Path
) -> AsyncIterator[str]:
    """The address of a server that runs the service until the block ends."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    scoring_pb2_grpc.add_ScoringServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield f"unix://{socket}"
    finally:
        await server.stop(None)


@contextmanager
def server_in_a_thread(service: ScriptedService, socket: Path) -> Iterator[str]:
    """The address of a server for synchronous tests."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stack = AsyncExitStack()

    def run(function: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(function(), loop).result()

    try:
        yield run(lambda: stack.enter_async_context(serving(service, socket)))
    finally:
        run(stack.aclose)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
