"""One teacher's connection: claims jobs while the teacher has room, and settles what it answers."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterhint.channel import SERVICE_NAME, open_channel
from counterhint.errors import (
    CounterhintError,
    EngineFailure,
    InvalidJob,
    Overloaded,
    Unavailable,
    UnknownFailure,
    error_from_rpc,
    failure_from_message,
)
from counterhint.jobs import TeacherInfo
from counterhint.messages import teacher_from_message
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from services.queue.announcements import wait_for_event
from services.queue.base import JobQueue
from services.queue.errors import NOT_NOW
from services.queue.records import Claim

log = logging.getLogger(__name__)

CALL_SECONDS = 5.0
"""Time-out of the short calls: health, GetTeacher."""
CLAIM_SECONDS = 0.5
"""How long one wait for work lasts: how soon a lost teacher or the signal to end is noticed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between tries to connect or to reach the queue."""
DRAINING = "DRAINING"
"""Reason with which a teacher that shuts down in order ends its streams."""

Stream = grpc.aio.StreamStreamCall[Any, Any]


@dataclass(frozen=True)
class LinkSettings:
    """How much of the queue one teacher holds at a time."""

    max_tokens: int = 65_536
    """Claims stop while jobs of this cost are in flight."""
    max_jobs: int = 16
    """Most jobs in flight."""
    drain_seconds: float = 10.0
    """How long jobs in flight may take after the signal to end, before they are released."""


class TeacherLink:
    """Keeps one stream to one teacher, and connects again whenever it breaks.

    A job whose delivery failed before travels alone: were it the one that kills teachers, nobody
    else's failures would be counted with it.

    Args:
        address: the teacher's.
        worker: the name under which jobs are claimed.
        queue: where they come from.
        settings: bounds.
        accept: told of each teacher before it gets work; its `CounterhintError` refuses it.
        stop: set when the process is to end.
    """

    def __init__(
        self,
        address: str,
        worker: str,
        queue: JobQueue,
        settings: LinkSettings,
        accept: Callable[["TeacherLink", TeacherInfo], None],
        stop: asyncio.Event,
    ) -> None:
        self.address = address
        self.teacher: TeacherInfo | None = None
        """What is connected; None while nothing is."""
        self._worker = worker
        self._queue = queue
        self._settings = settings
        self._accept = accept
        self._stop = stop
        self._in_flight: dict[str, Claim] = {}
        self._waiting: Claim | None = None
        """Claimed, but not sent yet."""
        self._changed = asyncio.Event()
        self._paused_until = 0.0

    @property
    def claims(self) -> list[Claim]:
        """What is held now: the leases to renew."""
        waiting = [] if self._waiting is None else [self._waiting]
        return [*self._in_flight.values(), *waiting]

    async def run(self) -> None:
        """Connects and works until `stop` is set and what was in flight is settled."""
        pause, told = FIRST_PAUSE, ""
        while not self._stop.is_set():
            async with open_channel(self.address) as channel:
                try:
                    teacher = await self._connect(channel)
                except CounterhintError as error:
                    if error.message != told:
                        told = error.message
                        level = logging.INFO if isinstance(error, Unavailable) else logging.ERROR
                        log.log(level, "teacher at %s: not connected: %s", self.address, told)
                else:
                    pause, told = FIRST_PAUSE, ""
                    self.teacher = teacher
                    log.info("teacher %s at %s: connected", teacher.model_id, self.address)
                    await self._work(scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream())
                    self.teacher = None
            await wait_for_event(self._stop, pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self, channel: grpc.aio.Channel) -> TeacherInfo:
        """What the teacher is, once it is ready and accepted.

        Raises:
            CounterhintError: it is not.
        """
        health: Any = health_pb2_grpc.HealthStub(channel)
        scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
        try:
            status = await health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=CALL_SECONDS
            )
            if status.status != health_pb2.HealthCheckResponse.SERVING:
                raise Unavailable("it is not ready yet", reason="NOT_READY")
            message = await scoring.GetTeacher(
                scoring_pb2.GetTeacherRequest(), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        teacher = teacher_from_message(message)
        self._accept(self, teacher)
        return teacher

    async def _work(self, stream: Stream) -> None:
        """Feeds one stream and settles its replies, until it breaks or the drain is over."""
        broken = asyncio.Event()
        reader = asyncio.create_task(self._read(stream))
        reader.add_done_callback(lambda _: broken.set())
        reader.add_done_callback(lambda _: self._changed.set())
        await self._feed(stream, broken)
        if self._stop.is_set() and not broken.is_set():
            await self._wait_until(
                lambda: not self._in_flight or broken.is_set(), self._settings.drain_seconds
            )
        if not reader.done():
            stream.cancel()
        loss = await reader
        in_order = self._stop.is_set() or loss.reason == DRAINING
        log.log(
            logging.INFO if in_order else logging.WARNING,
            "teacher at %s: disconnected (%s); %d jobs go back to the queue",
            self.address,
            "stopping" if self._stop.is_set() else loss.message,
            len(self.claims),
        )
        lost = partial(self._queue.fail, error=loss, retryable=True)
        for claim in self.claims:
            if in_order or claim is self._waiting:
                await self._settle(self._queue.release, claim)
            else:
                await self._settle(lost, claim)
        self._in_flight.clear()
        self._waiting = None

    async def _feed(self, stream: Stream, broken: asyncio.Event) -> None:
        def ended() -> bool:
            return self._stop.is_set() or broken.is_set()

        def has_room() -> bool:
            held = self._in_flight.values()
            return (
                sum(claim.cost for claim in held) < self._settings.max_tokens
                and len(held) < self._settings.max_jobs
                and not any(claim.failures for claim in held)
                and time.monotonic() >= self._paused_until
            )

        while not ended():
            await self._wait_until(lambda: has_room() or ended(), CLAIM_SECONDS)
            if ended() or not has_room():
                continue
            try:
                self._waiting = claim = await self._queue.claim(self._worker, CLAIM_SECONDS)
            except NOT_NOW as error:
                log.warning("no claims: %s", error)
                await wait_for_event(self._stop, self._queue.settings.retry_after)
                continue
            if claim is None:
                continue
            try:
                job = _job_of(claim)
            except InvalidJob as error:
                log.error("job %s of run %s: %s", claim.id, claim.run_id, error)
                await self._settle(partial(self._queue.fail, error=error, retryable=False), claim)
                self._waiting = None
                continue
            if claim.failures or claim.id in self._in_flight:
                while self._in_flight and not ended():
                    await self._wait_until(lambda: not self._in_flight or ended(), CLAIM_SECONDS)
            if ended():
                return
            self._in_flight[claim.id] = claim
            self._waiting = None
            request = scoring_pb2.ScoreStreamRequest(job=job, timeout_seconds=claim.timeout)
            try:
                await stream.write(request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                self._waiting = self._in_flight.pop(claim.id, None)  # the teacher never had it
                return

    async def _read(self, stream: Stream) -> CounterhintError:
        """Settles replies until the stream ends; returns why it did."""
        try:
            async for reply in stream:
                claim = self._in_flight.get(reply.id)
                if claim is None:
                    log.error("teacher at %s answered a job that it was not given", self.address)
                    continue
                await self._settle(partial(self._take, reply=reply), claim)
                del self._in_flight[claim.id]
                self._changed.set()
        except grpc.aio.AioRpcError as error:
            reason = error_from_rpc(error)
        except asyncio.CancelledError:  # by our own stream.cancel()
            reason = Unavailable("the stream was cancelled", reason="CANCELLED")
        else:
            reason = Unavailable("the teacher ended the stream", reason="STREAM_ENDED")
        if reason.reason == DRAINING:
            return reason
        return Unavailable(
            f"lost while jobs were in flight: {reason.message}", reason="TEACHER_LOST"
        )

    async def _take(self, claim: Claim, reply: scoring_pb2.ScoreStreamResponse) -> bool:
        """Writes one reply to the queue; False when the lease was lost."""
        if reply.HasField("response"):
            return await self._queue.complete(claim, reply.response.SerializeToString())
        error = failure_from_message(reply.failure)
        if isinstance(error, Unavailable) or (
            isinstance(error, Overloaded) and error.retry_after > 0
        ):
            self._paused_until = time.monotonic() + max(error.retry_after, FIRST_PAUSE)
            return await self._queue.release(claim)
        log.warning("job %s of run %s: %s", claim.id, claim.run_id, error.reason)
        return await self._queue.fail(claim, error, retryable=_may_pass_next_time(error))

    async def _settle(self, write: Callable[[Claim], Awaitable[bool]], claim: Claim) -> None:
        """Writes to the queue, however long it cannot be reached."""
        while True:
            try:
                kept = await write(claim)
            except NOT_NOW as error:
                log.warning("job %s: not settled yet: %s", claim.id, error)
                await asyncio.sleep(self._queue.settings.retry_after)
            else:
                if not kept:
                    log.warning("job %s: lease lost, what came of it is discarded", claim.id)
                return

    async def _wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and (remaining := deadline - time.monotonic()) > 0:
            self._changed.clear()
            await wait_for_event(self._changed, min(remaining, CLAIM_SECONDS))


def _job_of(claim: Claim) -> scoring_pb2.ScoreRequest:
    """The job that was queued.

    Raises:
        InvalidJob: the payload cannot be read, or is of a job with another id, whose answer
            could not be told to be this one's.
    """
    try:
        job = scoring_pb2.ScoreRequest.FromString(claim.payload)
    except DecodeError as error:
        raise _bad_payload(claim, f"no ScoreRequest: {error}") from error
    if job.id != claim.id:
        raise _bad_payload(claim, f"of a job with the id {job.id!r}")
    return job


def _bad_payload(claim: Claim, what: str) -> InvalidJob:
    return InvalidJob(
        f"the payload of job {claim.id!r} is {what}: let only this version's intake write to "
        "the queue, and submit the job again",
        reason="BAD_PAYLOAD",
        details={"job": claim.id},
    )


def _may_pass_next_time(error: CounterhintError) -> bool:
    """Whether another try could end otherwise: not for numbers that are no numbers."""
    return isinstance(error, EngineFailure | UnknownFailure) and error.reason != "NOT_FINITE"
