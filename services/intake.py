"""The intake: the scoring contract in front of the queue.

A client's job outlives its call: whoever sends the same job again, to this intake or to another
one, joins it. Where callers have tokens, that is whoever has a token of the same run: in the queue,
the run's name stands before its jobs' ids, so that no id of one run is ever one of another.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from counterhint.authentication import Authentication
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    JobNotFound,
    Unavailable,
    error_to_status,
    failure_from_message,
    failure_to_message,
)
from counterhint.jobs import TeacherInfo
from counterhint.messages import job_from_message, teacher_to_message
from counterhint.tokens import Caller
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from counterhint.validation import validate_job
from services import metrics
from services.queue.base import JobQueue
from services.queue.records import JobState, Outcome, QueuedJob, RunPolicy

NO_TEACHER_RETRY = 1.0
"""Seconds after which a teacher may have connected."""
DRAINING_RETRY = 0.5
"""Seconds after which another intake may stand at this address."""
LONGEST_WAIT = 3600.0
"""Seconds of one wait for an outcome; callers without a deadline wait again."""

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class IntakeService(scoring_pb2_grpc.ScoringServiceServicer):
    """Validates jobs, queues them and hands their outcomes back.

    Args:
        queue: where jobs go.
        stream_jobs: jobs of one stream that may be under way or have a reply that was not taken
            yet; a client that reads slowly holds up itself alone.
        authentication: says whose token a call has.
    """

    def __init__(self, queue: JobQueue, stream_jobs: int, authentication: Authentication) -> None:
        self._queue = queue
        self._stream_jobs = stream_jobs
        self._authentication = authentication
        self._waiting: set[asyncio.Task[Outcome]] = set()
        self._draining = False

    async def GetTeacher(  # noqa: N802
        self, request: scoring_pb2.GetTeacherRequest, context: Context
    ) -> scoring_pb2.GetTeacherResponse:
        """What the teachers behind the queue are."""
        try:
            return teacher_to_message(await self._teacher())
        except CounterhintError as error:
            await context.abort_with_status(error_to_status(error))
            raise

    async def Score(  # noqa: N802
        self, request: scoring_pb2.ScoreRequest, context: Context
    ) -> scoring_pb2.ScoreResponse:
        """Queues one job and waits for its outcome; the job stays when the client goes."""
        try:
            return await self._score(request, context.time_remaining(), context)
        except CounterhintError as error:
            await context.abort_with_status(error_to_status(error))
            raise

    async def ScoreStream(  # noqa: N802
        self, requests: AsyncIterator[scoring_pb2.ScoreStreamRequest], context: Context
    ) -> None:
        """Queues the jobs of a stream; replies as they finish."""
        slots = asyncio.Semaphore(self._stream_jobs)
        writing = asyncio.Lock()

        async def answer(request: scoring_pb2.ScoreStreamRequest) -> None:
            reply = scoring_pb2.ScoreStreamResponse(id=request.job.id)
            try:
                response = await self._score(request.job, request.timeout_seconds or None, context)
                reply.response.CopyFrom(response)
            except CounterhintError as error:
                reply.failure.CopyFrom(failure_to_message(error))
            async with writing:
                await context.write(reply)
            slots.release()

        async with asyncio.TaskGroup() as answers:
            async for request in requests:
                await slots.acquire()
                answers.create_task(answer(request))

    def drain(self) -> None:
        """Ends all waiting with UNAVAILABLE; the jobs stay, and clients send them again."""
        self._draining = True
        for task in self._waiting:
            task.cancel()

    async def _teacher(self) -> TeacherInfo:
        teacher = await self._queue.teacher()
        if teacher is None:
            raise Unavailable(
                "no teacher is connected to the queue",
                reason="NO_TEACHER",
                retry_after=NO_TEACHER_RETRY,
            )
        return teacher

    async def _score(
        self, request: scoring_pb2.ScoreRequest, timeout: float | None, context: Context
    ) -> scoring_pb2.ScoreResponse:
        """Answers a job, and counts the answer."""
        arrived = time.monotonic()
        try:
            response = await self._queued(request, timeout, context)
        except CounterhintError as error:
            metrics.ANSWERS.labels(error.reason).inc()
            raise
        metrics.ANSWERS.labels("OK").inc()
        metrics.ANSWER_SECONDS.observe(time.monotonic() - arrived)
        return response

    async def _queued(
        self, request: scoring_pb2.ScoreRequest, timeout: float | None, context: Context
    ) -> scoring_pb2.ScoreResponse:
        if self._draining:
            raise _draining()
        caller = self._authentication.caller(context)
        caller.check_run(request.run_id)
        job = job_from_message(request)
        validate_job(job, await self._teacher(), may_be_split=True)  # by the dispatcher
        request.id = caller.own_id(job.id)
        queued = QueuedJob(
            id=request.id,
            run_id=caller.run or job.run_id,
            cost=job.tokens_computed,
            payload=request.SerializeToString(deterministic=True),
            priority=job.priority,
            timeout=timeout,
        )
        task = asyncio.create_task(self._outcome(queued, _policy(caller)))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        if task.cancelled():
            raise _draining()
        response = _decode(task.result())
        response.id = job.id
        response.cost.wait_seconds += task.result().wait_seconds
        metrics.WAIT_SECONDS.observe(task.result().wait_seconds)
        return response

    async def _outcome(self, job: QueuedJob, policy: RunPolicy | None) -> Outcome:
        """Queues the job and waits; queues it again when a queue that lost its data forgot it."""
        deadline = None if job.timeout is None else time.monotonic() + job.timeout
        state = await self._queue.enqueue(job, policy)
        log.debug("job %s of run %s: %s", job.id, job.run_id, state)
        while True:
            remaining = LONGEST_WAIT if deadline is None else deadline - time.monotonic()
            try:
                outcome = await self._queue.wait_outcome(job.id, remaining)
            except JobNotFound:
                log.warning("job %s was forgotten by the queue: queued again", job.id)
                await self._queue.enqueue(job, policy)
                continue
            if outcome is not None:
                return outcome
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlinePassed(
                    f"job {job.id!r} had {job.timeout:g} s, and they are over",
                    reason="DEADLINE_EXCEEDED",
                    details={"job": job.id, "timeout_seconds": job.timeout},
                )


def _policy(caller: Caller) -> RunPolicy | None:
    """What the caller's token lets its run take; None leaves that as it is."""
    if caller.grant is None:
        return None
    grant = caller.grant
    return RunPolicy(grant.weight, grant.max_priority, grant.max_jobs, grant.max_bytes)


def _decode(outcome: Outcome) -> scoring_pb2.ScoreResponse:
    """The response that a job ended with.

    Raises:
        EngineFailure: what is in the queue is no message of the contract.
        CounterhintError: what else the job ended with.
    """
    try:
        if outcome.state is JobState.DONE:
            return scoring_pb2.ScoreResponse.FromString(outcome.body)
        failure = scoring_pb2.Failure.FromString(outcome.body)
    except DecodeError as error:
        raise EngineFailure(
            f"the outcome of job {outcome.job_id!r} cannot be read: something else than a "
            "dispatcher of this version wrote it",
            reason="OUTCOME_UNREADABLE",
            details={"job": outcome.job_id},
        ) from error
    raise failure_from_message(failure)


def _draining() -> Unavailable:
    return Unavailable(
        "the intake is shutting down; send the job again",
        reason="DRAINING",
        retry_after=DRAINING_RETRY,
    )
