"""The scoring client: async, and a synchronous one over it for training loops.

Both speak to a teacher or to the intake in front of a queue. A job's id makes it safe to send
again, so every call survives a server that restarts: UNAVAILABLE and a full queue are tried again,
with growing pauses, until the caller's time-out.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
)
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from counterhint.channel import open_channel
from counterhint.credentials import Credentials
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    Overloaded,
    TokenizerMismatch,
    Unavailable,
    error_from_rpc,
    failure_from_message,
)
from counterhint.jobs import ScoringJob, ScoringResult, TeacherInfo
from counterhint.messages import job_to_message, result_from_message, teacher_from_message
from counterhint.request_context import TraceContext, current, new_request_id, working_for
from counterhint.tracing import Span, span
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc

T = TypeVar("T")

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between tries: doubled each time, with jitter."""


class AsyncScoringClient:
    """A client for one event loop.

    Args:
        address: `host:port` or `unix:///path` of a teacher or an intake.
        timeout: seconds that a call may take, tries included.
        on_retry: told of each failed try that will be repeated, for logs and metrics.
        credentials: token and TLS; those of the environment by default (see
            `Credentials.from_environment`).

    Raises:
        InputError: the credentials cannot be used, or must not be sent to this address.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 600.0,
        on_retry: Callable[[CounterhintError], None] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._on_retry = on_retry
        self._credentials = credentials or Credentials.from_environment()
        self._channel = open_channel(address, self._credentials)
        self._stub = scoring_pb2_grpc.ScoringServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        await self._channel.close()

    async def get_teacher(self, timeout: float | None = None) -> TeacherInfo:
        """What the teacher is.

        Raises:
            Unavailable: nobody answered within the time-out.
        """
        try:
            message = await self._with_retries(
                lambda remaining: self._stub.GetTeacher(
                    scoring_pb2.GetTeacherRequest(),
                    timeout=remaining,
                    metadata=self._credentials.metadata(),
                ),
                timeout,
            )
        except DeadlinePassed as error:  # the time was over in the middle of a try
            raise Unavailable(error.message, reason=error.reason) from error
        return teacher_from_message(message)

    async def check_tokenizer(self, fingerprint: str, timeout: float | None = None) -> TeacherInfo:
        """What the teacher is, once it is sure that it shares the tokenizer.

        Raises:
            TokenizerMismatch: it does not.
        """
        teacher = await self.get_teacher(timeout)
        if teacher.tokenizer_fingerprint != fingerprint:
            raise TokenizerMismatch(fingerprint, teacher.tokenizer_fingerprint)
        return teacher

    async def score(self, job: ScoringJob, timeout: float | None = None) -> ScoringResult:
        """The scores of one job.

        All tries have one request id: that of the job context if the caller is in one (see
        `counterhint.request_context`), else a new one.

        Raises:
            CounterhintError: the typed error that the job ended with.
        """
        request = job_to_message(job)
        with (
            working_for(job.run_id, job.id, _own_trace()),
            span("client.score", _facts(job)),
        ):
            trace = current().trace.to_metadata()
            message = await self._with_retries(
                lambda remaining: self._stub.Score(
                    request, timeout=remaining, metadata=self._credentials.metadata() + trace
                ),
                timeout,
            )
            log.debug("scored by %s", self.address)
        return result_from_message(message, job)

    async def score_stream(
        self, jobs: AsyncIterable[ScoringJob]
    ) -> AsyncIterator[tuple[str, ScoringResult | CounterhintError]]:
        """The outcome of each job by its id, in the order in which they finish.

        One stream, no retries: when it breaks, what has not come yet can be sent again.

        Raises:
            CounterhintError: the stream as a whole failed.
        """
        sent: dict[str, tuple[ScoringJob, Span]] = {}

        async def requests() -> AsyncIterator[scoring_pb2.ScoreStreamRequest]:
            async for job in jobs:
                trace = _own_trace()
                with working_for(job.run_id, job.id, trace):
                    asking = Span("client.score", _facts(job))
                sent[job.id] = job, asking
                yield scoring_pb2.ScoreStreamRequest(
                    job=job_to_message(job),
                    timeout_seconds=self._timeout,
                    trace=replace(trace, traceparent=asking.traceparent).to_message(),
                )

        try:
            metadata = self._credentials.metadata()
            async for reply in self._stub.ScoreStream(requests(), metadata=metadata):
                if reply.id not in sent:
                    raise EngineFailure(
                        f"an answer came for {reply.id!r}, which is no job under way",
                        reason="WRONG_JOB",
                    )
                job, asking = sent.pop(reply.id)
                outcome = _outcome(reply, job)
                asking.end(outcome if isinstance(outcome, CounterhintError) else None)
                yield reply.id, outcome
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        finally:
            for _, asking in sent.values():
                asking.end()

    async def _with_retries(
        self, call: Callable[[float], Awaitable[T]], timeout: float | None
    ) -> T:
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        pause = FIRST_PAUSE
        failure: CounterhintError | None = None
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise failure or DeadlinePassed(
                    "no time left for the call", reason="DEADLINE_EXCEEDED"
                )
            try:
                return await call(remaining)
            except grpc.aio.AioRpcError as error:
                failure = error_from_rpc(error)
                if not _worth_another_try(failure):
                    raise failure from error
            if self._on_retry is not None:
                self._on_retry(failure)
            wait = max(failure.retry_after, pause * random.uniform(0.5, 1.5))
            await asyncio.sleep(min(wait, max(0.0, deadline - time.monotonic())))
            pause = min(2 * pause, LONGEST_PAUSE)


def _own_trace() -> TraceContext:
    """What one submission is followed by: the caller's request id, or a new one."""
    asking = current().trace
    return replace(asking, request_id=asking.request_id or new_request_id())


def _facts(job: ScoringJob) -> dict[str, int]:
    """What the span of a submission says of its job, which nobody has checked yet."""
    return {
        "contexts": len(job.contexts),
        "responses": len(job.responses),
        "pairs": len(job.pairs),
    }


def _outcome(
    reply: scoring_pb2.ScoreStreamResponse, job: ScoringJob
) -> ScoringResult | CounterhintError:
    if reply.HasField("failure"):
        return failure_from_message(reply.failure)
    try:
        return result_from_message(reply.response, job)
    except CounterhintError as error:  # this job's answer is damaged; the others go on
        return error


def _worth_another_try(error: CounterhintError) -> bool:
    return isinstance(error, Unavailable) or (
        isinstance(error, Overloaded) and error.retry_after > 0
    )


class ScoringClient:
    """A client for synchronous code: its calls run on an event loop in a thread of its own.

    `submit` returns at once, so that scoring overlaps with whatever the caller does next.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = 600.0,
        on_retry: Callable[[CounterhintError], None] | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        credentials = credentials or Credentials.from_environment()
        credentials.check(address)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="scoring-client", daemon=True
        )
        self._thread.start()

        async def connect() -> AsyncScoringClient:
            return AsyncScoringClient(
                address, timeout=timeout, on_retry=on_retry, credentials=credentials
            )

        self._client = self._run(connect()).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and ends the thread; calls under way are cancelled."""
        self._run(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def get_teacher(self, timeout: float | None = None) -> TeacherInfo:
        """See `AsyncScoringClient.get_teacher`."""
        return self._run(self._client.get_teacher(timeout)).result()

    def check_tokenizer(self, fingerprint: str, timeout: float | None = None) -> TeacherInfo:
        """See `AsyncScoringClient.check_tokenizer`."""
        return self._run(self._client.check_tokenizer(fingerprint, timeout)).result()

    def score(self, job: ScoringJob, timeout: float | None = None) -> ScoringResult:
        """See `AsyncScoringClient.score`."""
        return self.submit(job, timeout).result()

    def submit(self, job: ScoringJob, timeout: float | None = None) -> Future[ScoringResult]:
        """Sends a job; the future holds its result or raises its typed error."""
        return self._run(self._client.score(job, timeout))

    def start(self, work: Callable[[AsyncScoringClient], Coroutine[Any, Any, T]]) -> Future[T]:
        """Starts work that makes several calls, each perhaps by what the one before gave.

        It runs on the client's event loop, so it must await and never block.
        """
        return self._run(work(self._client))

    async def _end(self) -> None:
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
