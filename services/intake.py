"""The intake: the scoring contract in front of the queue, over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc

from counterhint.authentication import Authentication
from counterhint.errors import CounterhintError, error_to_status, failure_to_message
from counterhint.message_bounds import id_to_answer, timeout_of
from counterhint.messages import teacher_to_message
from counterhint.request_context import (
    REQUEST_ID,
    TraceContext,
    accept_message,
    accept_metadata,
)
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from services.submission import Submissions

UNTAKEN_BYTES = 16 * 1024 * 1024
"""Replies of one stream that wait here until the client takes them; more wait in the queue."""

Context = grpc.aio.ServicerContext[Any, Any]


class IntakeService(scoring_pb2_grpc.ScoringServiceServicer):
    """Takes jobs to the queue and hands their outcomes back.

    Args:
        submissions: validates jobs, queues them and waits for them.
        stream_jobs: jobs of one stream that may be under way or have a reply that was not taken
            yet; a client that reads slowly holds up itself alone.
        authentication: says whose token a call has.
    """

    def __init__(
        self, submissions: Submissions, stream_jobs: int, authentication: Authentication
    ) -> None:
        self._submissions = submissions
        self._stream_jobs = stream_jobs
        self._authentication = authentication

    async def GetTeacher(  # noqa: N802
        self, request: scoring_pb2.GetTeacherRequest, context: Context
    ) -> scoring_pb2.GetTeacherResponse:
        """What the teachers behind the queue are."""
        try:
            return teacher_to_message(await self._submissions.teacher())
        except CounterhintError as error:
            await context.abort_with_status(error_to_status(error))
            raise

    async def Score(  # noqa: N802
        self, request: scoring_pb2.ScoreRequest, context: Context
    ) -> scoring_pb2.ScoreResponse:
        """Queues one job and waits for its outcome; the job stays when the client goes."""
        trace = accept_metadata(context.invocation_metadata())
        with suppress(grpc.aio.InternalError):  # the client has gone; the call ends by that
            await context.send_initial_metadata(((REQUEST_ID, trace.request_id),))
        try:
            return await self._score(request, context.time_remaining(), trace, context)
        except CounterhintError as error:
            await context.abort_with_status(error_to_status(error))
            raise

    async def ScoreStream(  # noqa: N802
        self, requests: AsyncIterator[scoring_pb2.ScoreStreamRequest], context: Context
    ) -> None:
        """Queues the jobs of a stream; replies as they finish."""
        slots = asyncio.Semaphore(self._stream_jobs)
        writing = asyncio.Lock()
        held = 0

        async def write(reply: scoring_pb2.ScoreStreamResponse) -> None:
            with suppress(grpc.aio.InternalError):  # the client has gone; the call ends by that
                await context.write(reply)

        async def answer(request: scoring_pb2.ScoreStreamRequest) -> None:
            nonlocal held
            reply = await self._reply(request, context)
            size = reply.ByteSize()
            if held and held + size > UNTAKEN_BYTES and reply.HasField("response"):
                request.job.id = reply.id
                del reply  # the queue keeps it until it can be written
                async with writing:
                    await write(await self._reply(request, context))
            else:
                held += size
                async with writing:
                    await write(reply)
                held -= size
            slots.release()

        async with asyncio.TaskGroup() as answers:
            async for request in requests:
                await slots.acquire()
                answers.create_task(answer(request))

    async def _reply(
        self, request: scoring_pb2.ScoreStreamRequest, context: Context
    ) -> scoring_pb2.ScoreStreamResponse:
        """What one job of a stream ends with."""
        reply = scoring_pb2.ScoreStreamResponse(id=id_to_answer(request))
        try:
            trace = accept_message(request.trace)
            timeout = timeout_of(request)
            response = await self._score(request.job, timeout, trace, context)
            reply.response.CopyFrom(response)
        except CounterhintError as error:
            reply.failure.CopyFrom(failure_to_message(error))
        return reply

    async def _score(
        self,
        request: scoring_pb2.ScoreRequest,
        timeout: float | None,
        trace: TraceContext,
        context: Context,
    ) -> scoring_pb2.ScoreResponse:
        caller = self._authentication.caller(context)
        return await self._submissions.score(request, caller, timeout, trace)
