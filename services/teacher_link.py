"""One teacher's connection: a stream of jobs to it, and a future for each of its answers."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterhint.channel import SERVICE_NAME, open_channel
from counterhint.credentials import Credentials, Metadata
from counterhint.errors import (
    ENGINE_DEAD,
    ENGINE_HANGING,
    CounterhintError,
    InputError,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    error_from_rpc,
    failure_from_message,
)
from counterhint.jobs import TeacherInfo
from counterhint.messages import teacher_from_message
from counterhint.request_context import TraceContext, current
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from services.queue.announcements import wait_for_event

log = logging.getLogger(__name__)

CALL_SECONDS = 5.0
"""Time-out of the short calls: health, GetTeacher."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between tries to connect; the first is also the shortest pause of a busy teacher."""
SHORTEST_TIMEOUT = 0.001
"""Seconds that a job is sent with when its deadline has passed: 0 would stand for no deadline."""
DRAINING = "DRAINING"
"""Reason with which a teacher that shuts down in order ends its streams."""

Stream = grpc.aio.StreamStreamCall[Any, Any]


class TeacherLost(Unavailable):
    """The connection broke, or the engine, while the teacher had the job: it may be the cause."""


@dataclass(eq=False)
class Delivery:
    """A job on its way to a teacher and back."""

    request: scoring_pb2.ScoreRequest
    """The job."""
    tokens: int
    """What it takes of the teacher's capacity."""
    deadline: float
    """When its result is of no use any more, by `time.monotonic`."""
    alone: bool = False
    """Whether the teacher must have no other job meanwhile."""
    trace: TraceContext = field(default_factory=lambda: current().trace)
    """What follows the job through logs and traces."""
    answer: asyncio.Future[scoring_pb2.ScoreResponse] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """The scores, or the `CounterhintError` that ended the delivery: `TeacherLost` once the
    teacher had it, `Unavailable` when it was not begun. Cancelled, it is not sent any more, and
    an answer that comes all the same is dropped."""

    def fail(self, error: CounterhintError) -> None:
        """Ends the delivery, unless it has ended."""
        if not self.answer.done():
            self.answer.set_exception(error)


class TeacherLink:
    """Keeps one stream to one teacher, and connects again whenever it breaks.

    Args:
        address: the teacher's.
        max_tokens: with so many in flight it takes no more jobs.
        max_jobs: most jobs in flight.
        accept: told of each teacher before it gets work; its `CounterhintError` refuses it.
        changed: set whenever there may be room for a job, or less.
        credentials: what it shows to the teacher.
    """

    def __init__(
        self,
        address: str,
        max_tokens: int,
        max_jobs: int,
        accept: Callable[["TeacherLink", TeacherInfo], None],
        changed: asyncio.Event,
        credentials: Credentials,
    ) -> None:
        self.address = address
        self.teacher: TeacherInfo | None = None
        """What is connected; None while nothing is."""
        self._max_tokens = max_tokens
        self._max_jobs = max_jobs
        self._accept = accept
        self._changed = changed
        self._credentials = credentials
        self._closed = asyncio.Event()
        self._unsent: deque[Delivery] = deque()
        self._sent: dict[str, Delivery] = {}
        self._may_write = asyncio.Event()
        self._tokens = 0
        """Of all that is unsent or sent."""
        self._alone = 0
        """How many of these must travel alone."""
        self._pause: asyncio.TimerHandle | None = None
        """Runs while a busy teacher is left alone."""

    @property
    def load(self) -> float:
        """Tokens in flight, as a share of the capacity."""
        return self._tokens / self._max_tokens

    @property
    def jobs(self) -> int:
        """Deliveries in flight."""
        return len(self._sent) + len(self._unsent)

    @property
    def has_room(self) -> bool:
        """Whether another job can be sent now."""
        return (
            self.teacher is not None
            and self.jobs < self._max_jobs
            and self._tokens < self._max_tokens
            and not self._alone
            and self._pause is None
        )

    def send(self, delivery: Delivery) -> None:
        """Sends a job as soon as it may go; `Delivery.answer` says what became of it."""
        if self.teacher is None:
            delivery.fail(_not_begun(f"the teacher at {self.address} is not connected"))
            return
        self._unsent.append(delivery)
        self._tokens += delivery.tokens
        self._alone += delivery.alone
        self._may_write.set()

    def cancel(self, delivery: Delivery) -> None:
        """Ends a delivery whose answer is of no use any more, unless it has ended."""
        delivery.answer.cancel()
        self._may_write.set()

    def _gone(self, delivery: Delivery) -> None:
        self._tokens -= delivery.tokens
        self._alone -= delivery.alone
        self._changed.set()
        if self._unsent:  # one may have waited for this one to go
            self._may_write.set()

    def close(self) -> None:
        """Ends the connection; `run` returns, and what is in flight counts as not begun."""
        self._closed.set()

    async def run(self) -> None:
        """Connects and works until `close`."""
        pause, told = FIRST_PAUSE, ""
        while not self._closed.is_set():
            try:
                metadata = self._credentials.metadata()
                async with open_channel(self.address, self._credentials) as channel:
                    teacher = await self._connect(channel, metadata)
                    pause, told = FIRST_PAUSE, ""
                    self.teacher = teacher
                    self._changed.set()
                    log.info("teacher %s at %s: connected", teacher.model_id, self.address)
                    stub = scoring_pb2_grpc.ScoringServiceStub(channel)
                    await self._work(stub.ScoreStream(metadata=metadata))
            except (CounterhintError, InputError) as error:
                if str(error) != told:
                    told = str(error)
                    level = logging.INFO if isinstance(error, Unavailable) else logging.ERROR
                    log.log(level, "teacher at %s: not connected: %s", self.address, told)
            await wait_for_event(self._closed, pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self, channel: grpc.aio.Channel, metadata: Metadata) -> TeacherInfo:
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
                scoring_pb2.GetTeacherRequest(), timeout=CALL_SECONDS, metadata=metadata
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        teacher = teacher_from_message(message)
        self._accept(self, teacher)
        return teacher

    async def _work(self, stream: Stream) -> None:
        """Writes to one stream and reads from it, until it breaks or the link is closed."""
        reader = asyncio.create_task(self._read(stream))
        writer = asyncio.create_task(self._write(stream))
        closed = asyncio.create_task(self._closed.wait())
        await asyncio.wait({reader, writer, closed}, return_when=asyncio.FIRST_COMPLETED)
        self.teacher = None
        closed.cancel()
        writer.cancel()
        if not reader.done():
            stream.cancel()
        await asyncio.wait({writer})
        loss = await reader
        in_order = self._closed.is_set() or loss.reason == DRAINING
        log.log(
            logging.INFO if in_order else logging.WARNING,
            "teacher at %s: disconnected (%s); %d jobs go back to the queue",
            self.address,
            "stopping" if self._closed.is_set() else loss.message,
            len(self._sent) + len(self._unsent),
        )
        not_begun = _not_begun(loss.message)
        lost = TeacherLost(f"lost while jobs were in flight: {loss.message}", reason="TEACHER_LOST")
        for delivery in self._sent.values():
            delivery.fail(not_begun if in_order else lost)
        for delivery in self._unsent:
            delivery.fail(not_begun)
        self._sent.clear()
        self._unsent.clear()
        self._tokens = self._alone = 0
        self._changed.set()

    async def _write(self, stream: Stream) -> None:
        while True:
            while not self._unsent or not self._may_go(self._unsent[0]):
                self._may_write.clear()
                await self._may_write.wait()
            delivery = self._unsent.popleft()
            if delivery.answer.done():
                self._gone(delivery)
                continue
            self._sent[delivery.request.id] = delivery
            timeout = max(delivery.deadline - time.monotonic(), SHORTEST_TIMEOUT)
            try:
                await stream.write(_message(delivery, timeout))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
                # It never got there, unless its answer came before gRPC was done with the write.
                if self._sent.pop(delivery.request.id, None) is not None:
                    self._unsent.append(delivery)
                return

    def _may_go(self, delivery: Delivery) -> bool:
        """Whether it would not meet others that it must not, or its own id from a lost lease."""
        if delivery.answer.done():
            return True
        return not self._sent if delivery.alone else delivery.request.id not in self._sent

    async def _read(self, stream: Stream) -> CounterhintError:
        """Hands on answers until the stream ends; returns why it did."""
        try:
            async for reply in stream:
                delivery = self._sent.pop(reply.id, None)
                if delivery is None:
                    log.error("teacher at %s answered a job that it was not given", self.address)
                    continue
                self._take(delivery, reply)
                self._gone(delivery)
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error)
        except asyncio.CancelledError:  # by our own stream.cancel()
            return Unavailable("the stream was cancelled", reason="CANCELLED")
        return Unavailable("the teacher ended the stream", reason="STREAM_ENDED")

    def _take(self, delivery: Delivery, reply: scoring_pb2.ScoreStreamResponse) -> None:
        if reply.HasField("response"):
            if not delivery.answer.done():
                delivery.answer.set_result(reply.response)
            return
        error = failure_from_message(reply.failure)
        if error.reason in (ENGINE_DEAD, ENGINE_HANGING):
            error = TeacherLost(error.message, reason=error.reason, retry_after=error.retry_after)
        if isinstance(error, Unauthenticated | PermissionDenied):  # our token, not the job
            log.error("teacher at %s refuses our token: %s", self.address, error.message)
            error = _not_begun(error.message)
            self._leave_alone(LONGEST_PAUSE)
        elif passes_by_itself(error):
            self._leave_alone(max(error.retry_after, FIRST_PAUSE))
        delivery.fail(error)

    def _leave_alone(self, seconds: float) -> None:
        def resume() -> None:
            self._pause = None
            self._changed.set()

        if self._pause is not None:
            self._pause.cancel()
        self._pause = asyncio.get_running_loop().call_later(seconds, resume)


def _message(delivery: Delivery, timeout: float) -> scoring_pb2.ScoreStreamRequest:
    message = scoring_pb2.ScoreStreamRequest(
        timeout_seconds=timeout, trace=delivery.trace.to_message()
    )
    message.job.CopyFrom(delivery.request)  # given to the constructor, it would be parsed again
    return message


def passes_by_itself(error: CounterhintError) -> bool:
    """Whether the teacher did not begin the job, and may take it later."""
    return isinstance(error, Unavailable) or (
        isinstance(error, Overloaded) and error.retry_after > 0
    )


def _not_begun(why: str) -> Unavailable:
    return Unavailable(why, reason="NOT_BEGUN")
