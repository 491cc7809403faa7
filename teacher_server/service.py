"""The gRPC handlers of a teacher: `GetTeacher`, `Score`, `ScoreStream`."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any

import grpc

from counterhint.authentication import Authentication
from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    Unavailable,
    error_to_status,
    failure_to_message,
)
from counterhint.jobs import Cost, ScoringJob, ScoringResult, TeacherInfo
from counterhint.logs import log_failed, log_scored
from counterhint.message_bounds import id_to_answer, timeout_of
from counterhint.messages import (
    cost_from_message,
    job_from_message,
    result_to_message,
    teacher_to_message,
)
from counterhint.request_context import (
    REQUEST_ID,
    accept_message,
    accept_metadata,
    working_for,
)
from counterhint.tracing import span
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from counterhint.validation import validate_job
from teacher_server import metrics
from teacher_server.admission import Admission
from teacher_server.content_cache import ContentCache
from teacher_server.engines.base import Scored
from teacher_server.reply_writer import ReplyWriter
from teacher_server.watched_engine import WatchedEngine

LAST_ANSWERS = 5.0
"""Seconds in which every job learns that the engine is lost; it takes a moment."""
RETRY_WHEN_DRAINING = 1.0
"""Seconds after which another server may stand at this address."""

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class TeacherService(scoring_pb2_grpc.ScoringServiceServicer):
    """Validates jobs, and lets what the cache does not know through admission to the engine.

    Args:
        engine: scores.
        admission: what stands in front of it.
        cache: answers pairs that were scored before.
        stream_jobs: jobs of one stream that may be under way or have a reply that was not taken
            yet; a client that reads slowly holds up itself alone.
        send_seconds: how long a stream may leave a reply untaken before it is ended.
        authentication: says whose token a call has.
    """

    def __init__(
        self,
        engine: WatchedEngine,
        admission: Admission,
        cache: ContentCache,
        stream_jobs: int,
        send_seconds: float,
        authentication: Authentication,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._cache = cache
        self._stream_jobs = stream_jobs
        self._send_seconds = send_seconds
        self._authentication = authentication
        self._under_way: set[asyncio.Task[scoring_pb2.ScoreResponse]] = set()
        self._draining = asyncio.Event()

    async def GetTeacher(  # noqa: N802
        self, request: scoring_pb2.GetTeacherRequest, context: Context
    ) -> scoring_pb2.GetTeacherResponse:
        """What the teacher is."""
        return teacher_to_message(self._engine.info)

    async def Score(  # noqa: N802
        self, request: scoring_pb2.ScoreRequest, context: Context
    ) -> scoring_pb2.ScoreResponse:
        """Scores one job; gRPC cancels it when the deadline passes or the client goes."""
        trace = accept_metadata(context.invocation_metadata())
        with suppress(grpc.aio.InternalError):  # the client has gone; the call ends by that
            await context.send_initial_metadata(((REQUEST_ID, trace.request_id),))
        async with AsyncExitStack() as held:
            try:
                self._authentication.caller(context).check_run(request.run_id)
                with working_for(request.run_id, request.id, trace):
                    return await self._score(request, None, held)
            except CounterhintError as error:
                await context.abort_with_status(error_to_status(error))
                raise

    async def ScoreStream(  # noqa: N802
        self, requests: AsyncIterator[scoring_pb2.ScoreStreamRequest], context: Context
    ) -> None:
        """Scores the jobs of a stream; replies as they finish."""
        slots = asyncio.Semaphore(self._stream_jobs)
        replies = ReplyWriter(context, self._send_seconds)
        ending: CounterhintError | None = None

        async def answer(request: scoring_pb2.ScoreStreamRequest) -> None:
            trace = accept_message(request.trace)
            async with AsyncExitStack() as held:
                with working_for(request.job.run_id, request.job.id, trace):
                    reply = await self._outcome(request, held, context)
                await replies.write(reply)
            slots.release()

        try:
            async with (
                aclosing(self._until_draining(requests)) as taken,
                asyncio.TaskGroup() as jobs,
            ):
                await slots.acquire()
                async for request in taken:
                    jobs.create_task(answer(request))
                    await slots.acquire()
        except* TimeoutError:
            ending = _not_taken(self._send_seconds)
        await replies.last_taken()
        if ending is None and self._draining.is_set():
            ending = _draining()
        if ending is not None:
            await context.abort_with_status(error_to_status(ending))

    async def engine_lost(self) -> None:
        """Answers every job: those inside the engine with its loss, the others uncounted."""
        self._draining.set()
        self._admission.close(_draining())
        await self.drain(LAST_ANSWERS)

    async def drain(self, seconds: float) -> None:
        """Takes no new jobs, and waits for those under way; ends them when the time is over."""
        self._draining.set()
        if not self._under_way:
            return
        _, late = await asyncio.wait(self._under_way, timeout=seconds)
        for task in late:
            task.cancel()
        if late:
            log.warning(
                "ended %d jobs that took longer than the %g s of the drain", len(late), seconds
            )
            await asyncio.wait(late)

    async def _until_draining(
        self, requests: AsyncIterator[scoring_pb2.ScoreStreamRequest]
    ) -> AsyncGenerator[scoring_pb2.ScoreStreamRequest, None]:
        """Requests as they come, until the client has sent its last or the drain begins."""
        draining = asyncio.create_task(self._draining.wait())
        try:
            while True:
                following = asyncio.ensure_future(anext(requests, None))
                try:
                    done, _ = await asyncio.wait(
                        {following, draining}, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    following.cancel()  # which a finished one does not notice
                if following not in done:
                    return
                request = following.result()
                if request is None:
                    return
                yield request
        finally:
            draining.cancel()

    async def _outcome(
        self, request: scoring_pb2.ScoreStreamRequest, held: AsyncExitStack, context: Context
    ) -> scoring_pb2.ScoreStreamResponse:
        reply = scoring_pb2.ScoreStreamResponse(id=id_to_answer(request))
        try:
            self._authentication.caller(context).check_run(request.job.run_id)
            response = await self._score(request.job, timeout_of(request), held)
            reply.response.CopyFrom(response)
        except CounterhintError as error:
            reply.failure.CopyFrom(failure_to_message(error))
        except Exception as error:  # the stream's other jobs go on
            log.exception("job %s failed in the server", request.job.id)
            failure = EngineFailure(
                f"the server failed on job {request.job.id!r}: {type(error).__name__}",
                reason="SERVER_FAILED",
                details={"job": request.job.id, "error": type(error).__name__},
            )
            reply.failure.CopyFrom(failure_to_message(failure))
        return reply

    async def _score(
        self, request: scoring_pb2.ScoreRequest, timeout: float | None, held: AsyncExitStack
    ) -> scoring_pb2.ScoreResponse:
        """The scores of a job, whose memory `held` gives back when it is closed."""
        try:
            with span("teacher.score") as scoring:
                response = await self._score_in_time(request, timeout, held)
                cost = cost_from_message(response.cost)
                scoring.note({"tokens": cost.tokens_computed, "tokens_cached": cost.tokens_cached})
        except CounterhintError as error:
            metrics.JOBS.labels(error.reason).inc()
            log_failed(log, error)
            raise
        except asyncio.CancelledError:
            metrics.JOBS.labels("CANCELLED").inc()
            log.info("job ended: CANCELLED", extra={"outcome": "CANCELLED"})
            raise
        log_scored(log, cost)
        return response

    async def _score_in_time(
        self, request: scoring_pb2.ScoreRequest, timeout: float | None, held: AsyncExitStack
    ) -> scoring_pb2.ScoreResponse:
        if self._draining.is_set():
            raise _draining()
        task = asyncio.create_task(self._compute(request, held))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wait({task})
        except TimeoutError as error:
            raise DeadlinePassed(
                f"job {request.id!r} had {timeout:g} s, and they are over",
                reason="DEADLINE_EXCEEDED",
                details={"job": request.id, "timeout_seconds": timeout},
            ) from error
        finally:
            task.cancel()
        if task.cancelled():
            raise _draining()
        return task.result()

    async def _compute(
        self, request: scoring_pb2.ScoreRequest, held: AsyncExitStack
    ) -> scoring_pb2.ScoreResponse:
        info = self._engine.info
        job = job_from_message(request)
        validate_job(job, info)
        tokens_computed, seconds = 0, 0.0
        async with self._cache.look_up(job) as found:
            waited = found.waited
            if found.rest is None:
                await self._admission.hold(job.reply_bytes, held)
                scores = found.known_scores()
            else:
                scored, admitted = await self._through_engine(found.rest, job.reply_bytes, held)
                scores = found.with_rest(scored.scores)
                tokens_computed, seconds = scored.tokens_computed, scored.seconds
                waited += admitted
        cost = Cost(
            tokens_naive=job.tokens_naive,
            tokens_computed=tokens_computed,
            engine_seconds=seconds,
            wait_seconds=waited,
            pairs_cached=found.pairs_cached,
            tokens_cached=found.tokens_cached,
        )
        metrics.count_scored(len(job.pairs), cost)
        return result_to_message(
            ScoringResult(
                job_id=job.id,
                pair_lengths=job.pair_lengths,
                scores=scores,
                weights_revision=_wanted_revision(job, info),
                tokenizer_fingerprint=info.tokenizer_fingerprint,
                model_id=info.model_id,
                engine=info.engine,
                engine_version=info.engine_version,
                cost=cost,
            )
        )

    async def _through_engine(
        self, job: ScoringJob, reply_bytes: int, held: AsyncExitStack
    ) -> tuple[Scored, float]:
        """What the engine says to a job, and the seconds that the job waited for its turn."""
        tokens = job.tokens_computed
        async with self._admission.admit(tokens, reply_bytes, held) as waited:
            if self._engine.lost.done():
                raise _draining()  # it is not begun, so it must not count as one that was inside
            try:
                with span("engine", {"tokens": tokens}):
                    scored = await self._engine.score(job)
            except CounterhintError:
                raise
            except Exception as error:  # whatever happens to one job, the others go on
                log.exception("the engine failed on job %s of run %s", job.id, job.run_id)
                raise EngineFailure(
                    f"the engine failed on job {job.id!r}: {type(error).__name__}",
                    reason="ENGINE_FAILED",
                    details={"job": job.id, "error": type(error).__name__},
                ) from error
            self._admission.observe(tokens, scored.seconds)
        log.debug("job %s: %d tokens in %.3f s", job.id, tokens, scored.seconds)
        wanted = _wanted_revision(job, self._engine.info)
        if scored.weights_revision != wanted:
            raise EngineFailure(
                f"job {job.id!r} asks for weights {wanted!r}, but the engine computed with "
                f"{scored.weights_revision!r}",
                reason="WRONG_WEIGHTS",
                details={"job": job.id, "wanted": wanted, "found": scored.weights_revision},
            )
        return scored, waited


def _wanted_revision(job: ScoringJob, teacher: TeacherInfo) -> str:
    return teacher.weights_revision if job.weights is None else job.weights.revision


def _draining() -> Unavailable:
    return Unavailable(
        "the teacher is shutting down; send the job again",
        reason="DRAINING",
        retry_after=RETRY_WHEN_DRAINING,
    )


def _not_taken(seconds: float) -> Unavailable:
    return Unavailable(
        f"a reply was not taken for {seconds:g} s: read what this stream sends",
        reason="REPLY_NOT_TAKEN",
    )
