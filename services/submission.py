"""From a caller's job to its outcome: what the intake and the gateway do alike.

A caller's job outlives its call: whoever sends the same job again, here or to another process on
the same queue, joins it. Where callers have tokens, that is whoever has a token of the same run: in
the queue, the run's name stands before its jobs' ids, so that no id of one run is ever one of
another.
"""

import asyncio
import logging
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    EngineFailure,
    JobNotFound,
    Unavailable,
    failure_from_message,
)
from counterhint.jobs import TeacherInfo
from counterhint.logs import log_failed, log_scored
from counterhint.messages import cost_from_message, job_from_message
from counterhint.request_context import TraceContext, accept, current, working_for
from counterhint.tokens import Caller
from counterhint.tracing import span
from counterhint.v1 import scoring_pb2
from counterhint.validation import validate_job
from services import metrics
from services.queue.base import JobQueue
from services.queue.records import JobState, Outcome, QueuedJob, RunPolicy

NO_TEACHER_RETRY = 1.0
"""Seconds after which a teacher may have connected."""
DRAINING_RETRY = 0.5
"""Seconds after which another server may stand at this address."""
LONGEST_WAIT = 3600.0
"""Seconds of one wait for an outcome; callers without a deadline wait again."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A job that may go to the queue."""

    job: QueuedJob
    policy: RunPolicy | None
    """What the caller's token lets its run take; None leaves that as it is."""


class Submissions:
    """Validates jobs, queues them and waits for their outcomes.

    Args:
        queue: where jobs go.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._waiting: set[asyncio.Task[Outcome]] = set()
        self._draining = False

    async def teacher(self) -> TeacherInfo:
        """What the teachers behind the queue are.

        Raises:
            Unavailable: none is connected.
        """
        teacher = await self._queue.teacher()
        if teacher is None:
            raise Unavailable(
                "no teacher is connected to the queue",
                reason="NO_TEACHER",
                retry_after=NO_TEACHER_RETRY,
            )
        return teacher

    async def submit(
        self,
        request: scoring_pb2.ScoreRequest,
        caller: Caller,
        timeout: float | None,
        note: bytes,
        trace: TraceContext | None = None,
    ) -> str:
        """Queues a job and does not wait for it; gives the id that it has in the queue.

        Args:
            request: the job; its id becomes the one that it has in the queue.
            caller: whose job it is.
            timeout: seconds until the response is of no use; None for no bound.
            note: for whoever asks for the outcome later.
            trace: what follows the job through logs and traces; None for what `current` has.

        Raises:
            CounterhintError: why it is not accepted.
        """
        with _asked(request, trace), span("intake.submit"):
            try:
                checked = await self._check(request, caller, timeout)
                checked = replace(checked, job=replace(checked.job, note=note))
                await self._enqueue(checked)
            except CounterhintError as error:
                log_failed(log, error)
                raise
        return checked.job.id

    async def score(
        self,
        request: scoring_pb2.ScoreRequest,
        caller: Caller,
        timeout: float | None,
        trace: TraceContext | None = None,
    ) -> scoring_pb2.ScoreResponse:
        """Queues a job and waits for its response; the job stays when the caller goes.

        Args:
            request: the job; its id becomes the one that it has in the queue.
            caller: whose job it is.
            timeout: seconds until the response is of no use; None for no bound.
            trace: what follows the job through logs and traces; None for what `current` has.

        Raises:
            CounterhintError: why it is not accepted, or what it ended with.
        """
        arrived = time.monotonic()
        with _asked(request, trace), span("intake.score") as asked:
            try:
                response = await self._score(request, caller, timeout)
            except CounterhintError as error:
                metrics.ANSWERS.labels(error.reason).inc()
                log_failed(log, error)
                raise
            metrics.ANSWERS.labels("OK").inc()
            metrics.ANSWER_SECONDS.observe(time.monotonic() - arrived)
            log_scored(log, cost_from_message(response.cost))
            asked.note({"tokens": response.cost.tokens_computed})
            return response

    def drain(self) -> None:
        """Ends all waiting with UNAVAILABLE; the jobs stay, and callers send them again."""
        self._draining = True
        for task in self._waiting:
            task.cancel()

    async def _score(
        self,
        request: scoring_pb2.ScoreRequest,
        caller: Caller,
        timeout: float | None,
    ) -> scoring_pb2.ScoreResponse:
        callers_id = request.id
        checked = await self._check(request, caller, timeout)
        task = asyncio.create_task(self._outcome(checked))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        if task.cancelled():
            raise _draining()
        response = response_of(task.result())
        response.id = callers_id
        metrics.WAIT_SECONDS.observe(task.result().wait_seconds)
        return response

    async def _check(
        self,
        request: scoring_pb2.ScoreRequest,
        caller: Caller,
        timeout: float | None,
    ) -> _Checked:
        if self._draining:
            raise _draining()
        caller.check_run(request.run_id)
        job = job_from_message(request)
        validate_job(job, await self.teacher(), may_be_split=True)  # by the dispatcher
        request.id = caller.own_id(job.id)
        return _Checked(
            QueuedJob(
                id=request.id,
                run_id=caller.run or job.run_id,
                cost=job.tokens_computed,
                payload=request.SerializeToString(deterministic=True),
                priority=job.priority,
                timeout=timeout,
                trace=current().trace,
            ),
            _policy(caller),
        )

    async def _enqueue(self, checked: _Checked) -> None:
        job = checked.job
        state = await self._queue.enqueue(job, checked.policy)
        log.debug("job %s of run %s: %s", job.id, job.run_id, state)

    async def _outcome(self, checked: _Checked) -> Outcome:
        """Queues the job and waits; queues it again when a queue that lost its data forgot it."""
        job = checked.job
        deadline = None if job.timeout is None else time.monotonic() + job.timeout
        await self._enqueue(checked)
        while True:
            remaining = LONGEST_WAIT if deadline is None else deadline - time.monotonic()
            try:
                outcome = await self._queue.wait_outcome(job.id, remaining)
            except JobNotFound:
                log.warning("job %s was forgotten by the queue: queued again", job.id)
                await self._enqueue(checked)
                continue
            if outcome is not None:
                return outcome
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlinePassed(
                    f"job {job.id!r} had {job.timeout:g} s, and they are over",
                    reason="DEADLINE_EXCEEDED",
                    details={"job": job.id, "timeout_seconds": job.timeout},
                )


def response_of(outcome: Outcome) -> scoring_pb2.ScoreResponse:
    """The response that a job ended with, its wait in the queue added to the cost.

    Raises:
        EngineFailure: what is in the queue is no message of the contract.
        CounterhintError: what else the job ended with.
    """
    try:
        if outcome.state is JobState.DONE:
            response = scoring_pb2.ScoreResponse.FromString(outcome.body)
            response.cost.wait_seconds += outcome.wait_seconds
            return response
        failure = scoring_pb2.Failure.FromString(outcome.body)
    except DecodeError as error:
        raise EngineFailure(
            f"the outcome of job {outcome.job_id!r} cannot be read: something else than a "
            "dispatcher of this version wrote it",
            reason="OUTCOME_UNREADABLE",
            details={"job": outcome.job_id},
        ) from error
    raise failure_from_message(failure)


def _asked(
    request: scoring_pb2.ScoreRequest, trace: TraceContext | None
) -> AbstractContextManager[None]:
    """What is done for a job; without a trace, that of the request under way, or a new one."""
    asking = trace or current().trace
    if not asking.request_id:
        asking = accept("", "")
    return working_for(request.run_id, request.id, asking)


def _policy(caller: Caller) -> RunPolicy | None:
    if caller.grant is None:
        return None
    grant = caller.grant
    return RunPolicy(grant.weight, grant.max_priority, grant.max_jobs, grant.max_bytes)


def _draining() -> Unavailable:
    return Unavailable(
        "the server is shutting down; send the job again",
        reason="DRAINING",
        retry_after=DRAINING_RETRY,
    )
