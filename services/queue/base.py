"""The queue's interface: what is queued, who holds it, how it ends.

A job is accepted once (`enqueue`), executed at least once, and ends in exactly one visible outcome:

    queued ──claim──▶ claimed ──complete──▶ done
       ▲                 │ └────fail──────▶ failed
       └─release, retry──┘ └─ too often ──▶ dead ──retry──▶ queued
    queued or claimed ──cancel──▶ cancelled;   queued past its deadline ──▶ expired

A claim is a lease. Its holder proves itself by its name and the attempt number: what it writes
after the lease has gone to somebody else is discarded.
"""

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import TracebackType
from typing import Self

from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    JobCancelled,
    JobConflict,
    JobDeadLettered,
    JobNotFound,
    Overloaded,
    Unavailable,
    failure_to_message,
)
from counterhint.jobs import TeacherInfo
from services.queue.announcements import Announcements, wait_for_event

WORK = ":work"
"""The announcement that there may be something to claim; any other one is a finished job's id."""

NOT_NOW = (Unavailable, Overloaded)
"""Errors of a queue that pass by themselves: its store is away, or full."""


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"

    @property
    def finished(self) -> bool:
        """Whether the job has an outcome."""
        return self not in (JobState.QUEUED, JobState.CLAIMED)


@dataclass(frozen=True)
class QueueSettings:
    """Bounds and times of a queue. Every process on one queue must use the same."""

    max_jobs: int = 10_000
    """Unfinished jobs of all runs."""
    max_bytes: int = 1 << 30
    """Payload bytes of all unfinished jobs."""
    max_run_jobs: int = 4_000
    """Unfinished jobs of one run."""
    max_run_bytes: int = 1 << 29
    """Payload bytes of one run's unfinished jobs."""
    lease_seconds: float = 10.0
    """How long a claim lasts without a heartbeat."""
    max_attempts: int = 3
    """Deliveries that may end badly before the job is put aside as dead."""
    job_seconds: float = 86_400.0
    """Deadline of a job that is queued without one."""
    result_seconds: float = 900.0
    """How long an outcome can be fetched."""
    dead_seconds: float = 7 * 86_400.0
    """How long a dead job is kept."""
    retry_after: float = 1.0
    """What a refused client is told to wait, in seconds."""


@dataclass(frozen=True)
class QueuedJob:
    """A job on its way into the queue."""

    id: str
    """The client's id."""
    run_id: str
    """The run that it counts for."""
    cost: int
    """Tokens to compute: the measure by which runs share."""
    payload: bytes
    """A serialized `ScoreRequest`."""
    priority: int = 0
    """Higher is more urgent."""
    timeout: float | None = None
    """Seconds from now until the result is of no use; None for the queue's own bound."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the payload: the same id with another digest is another job."""
        return hashlib.sha256(self.payload).hexdigest()


@dataclass(frozen=True, slots=True)
class Claim:
    """A job in the hands of a worker."""

    id: str
    run_id: str
    cost: int
    worker: str
    """Who holds the lease."""
    attempt: int
    """Number of this delivery, from 1; with `worker` it tells this lease from every other."""
    failures: int
    """Deliveries that ended badly before."""
    payload: bytes = field(repr=False)
    wait_seconds: float
    """Seconds since the job was accepted."""
    timeout: float
    """Seconds left until its deadline."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended."""

    job_id: str
    state: JobState
    body: bytes = field(repr=False)
    """A serialized `ScoreResponse` when the state is DONE, else a serialized `Failure`."""
    wait_seconds: float
    """Seconds between acceptance and the last claim."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the queue knows about one job."""

    id: str
    run_id: str
    state: JobState
    cost: int
    priority: int
    attempt: int
    """Deliveries so far."""
    failures: int
    """Deliveries that ended badly."""
    reason: str
    """Why it failed, was put aside or redelivered; empty otherwise."""


@dataclass(frozen=True, slots=True)
class RunStats:
    """A run's jobs by state: unfinished ones now, finished ones since the run was first seen."""

    run_id: str
    queued: int = 0
    claimed: int = 0
    bytes: int = 0
    """Payload bytes of unfinished jobs."""
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    dead: int = 0
    tokens: int = 0
    """Cost of all claims so far."""


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one look at leases and deadlines did."""

    redelivered: int = 0
    dead: int = 0
    expired: int = 0


class JobQueue(ABC):
    """A bounded queue that is fair between runs by tokens.

    Used as an async context manager. Every method may raise `Unavailable` while the queue's store
    cannot be reached, except those that say that they wait.
    """

    poll_seconds: float = 1.0
    """How often a waiting call looks by itself, should an announcement be lost."""

    def __init__(self, settings: QueueSettings) -> None:
        self.settings = settings
        self._announcements = Announcements()

    async def __aenter__(self) -> Self:
        """Opens the queue.

        Raises:
            Unavailable: its store cannot be reached.
        """
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the queue."""
        return

    # Clients

    @abstractmethod
    async def enqueue(self, job: QueuedJob) -> JobState:
        """Accepts a job, or joins the one that is there under its id.

        A job that is queued, claimed, done or dead stays as it is (its deadline moves to the later
        one); one that failed, expired or was cancelled is tried anew.

        Returns:
            The job's state.

        Raises:
            JobConflict: the id is known with other content.
            Overloaded: a bound is reached; `retry_after` says when to come back.
        """

    async def wait_outcome(self, job_id: str, timeout: float) -> Outcome | None:
        """The job's outcome once it is there, or None after `timeout` seconds.

        Waits while the store cannot be reached.

        Raises:
            JobNotFound: no job has this id (its result may have outlived its time).
        """
        deadline = time.monotonic() + timeout
        with self._announcements.listen(job_id) as announced:
            while True:
                announced.clear()
                try:
                    outcome = await self.outcome(job_id)
                except Unavailable:
                    outcome = None
                remaining = deadline - time.monotonic()
                if outcome is not None or remaining <= 0:
                    return outcome
                await wait_for_event(announced, min(remaining, self.poll_seconds))

    @abstractmethod
    async def outcome(self, job_id: str) -> Outcome | None:
        """The job's outcome, or None while it is unfinished.

        Raises:
            JobNotFound: no job has this id.
        """

    @abstractmethod
    async def cancel(self, job_id: str) -> JobState:
        """Ends an unfinished job; whoever computes it finds its result discarded.

        Returns:
            The state after it: CANCELLED, or how the job had ended before.

        Raises:
            JobNotFound: no job has this id.
        """

    # Workers

    async def claim(self, worker: str, timeout: float = 0.0) -> Claim | None:
        """The next job of the run with the fewest tokens so far; None after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._announcements.listen(WORK) as announced:
            while True:
                announced.clear()
                claim = await self._claim_now(worker)
                remaining = deadline - time.monotonic()
                if claim is not None or remaining <= 0:
                    return claim
                await wait_for_event(announced, min(remaining, self.poll_seconds))

    @abstractmethod
    async def _claim_now(self, worker: str) -> Claim | None:
        """The next job, or None when nothing is queued; jobs past their deadline expire."""

    @abstractmethod
    async def heartbeat(self, claims: Sequence[Claim]) -> set[str]:
        """Renews one worker's leases.

        Returns:
            The ids of those that are lost.
        """

    @abstractmethod
    async def complete(self, claim: Claim, response: bytes) -> bool:
        """Ends a job with a serialized `ScoreResponse`; False when the lease was lost."""

    async def fail(self, claim: Claim, error: CounterhintError, *, retryable: bool) -> bool:
        """Ends a delivery with an error; False when the lease was lost.

        A retryable one puts the job back, or aside once it has failed `max_attempts` times; any
        other is the job's outcome.
        """
        if retryable:
            return await self._give_back(claim, counted=True, reason=error.reason)
        return await self._fail_for_good(
            claim, error.reason, failure_to_message(error).SerializeToString()
        )

    async def release(self, claim: Claim) -> bool:
        """Gives back a job that was not begun, uncounted; False when the lease was lost."""
        return await self._give_back(claim, counted=False, reason="")

    @abstractmethod
    async def _fail_for_good(self, claim: Claim, reason: str, failure: bytes) -> bool:
        """Ends a job with a serialized `Failure`; False when the lease was lost."""

    @abstractmethod
    async def _give_back(self, claim: Claim, *, counted: bool, reason: str) -> bool:
        """Puts a claimed job back in front of its run's others; False when the lease was lost."""

    @abstractmethod
    async def reap(self) -> Reaped:
        """Takes back leases that ran out and ends queued jobs whose deadline has passed."""

    # Teachers

    @abstractmethod
    async def publish_teacher(self, teacher: TeacherInfo, seconds: float) -> None:
        """Says what the connected teachers are, for so long."""

    @abstractmethod
    async def teacher(self) -> TeacherInfo | None:
        """What the connected teachers are; None when none has been published lately."""

    # Operators

    @abstractmethod
    async def stats(self) -> list[RunStats]:
        """Every known run, by id."""

    @abstractmethod
    async def job(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            JobNotFound: no job has this id.
        """

    @abstractmethod
    async def dead(self) -> list[JobRecord]:
        """The jobs that were put aside, oldest first."""

    @abstractmethod
    async def retry(self, job_id: str) -> bool:
        """Puts a dead job back into the queue; False when it is not dead.

        Raises:
            JobNotFound: no job has this id.
        """

    @abstractmethod
    async def purge(self, run_id: str) -> int:
        """Cancels a run's unfinished jobs and drops its dead ones; returns how many."""


def outcome_of(
    job_id: str, state: JobState, body: bytes, reason: str, wait_seconds: float
) -> Outcome:
    """The outcome of a finished job; `body` is what a worker wrote, if one did."""
    error: CounterhintError
    match state:
        case JobState.CANCELLED:
            error = JobCancelled(f"job {job_id!r} was cancelled", reason="CANCELLED")
        case JobState.EXPIRED:
            error = DeadlinePassed(
                f"the deadline of job {job_id!r} passed while it was queued",
                reason="DEADLINE_EXCEEDED",
            )
        case JobState.DEAD:
            error = JobDeadLettered(
                f"job {job_id!r} failed on every try and was put aside; the last reason: {reason}",
                reason="DEAD_LETTER",
                details={"job": job_id, "last_reason": reason},
            )
        case _:
            return Outcome(job_id, state, body, wait_seconds)
    return Outcome(job_id, state, failure_to_message(error).SerializeToString(), wait_seconds)


def queue_full(bound: str, limit: int, retry_after: float) -> Overloaded:
    """The refusal of a job because of one of the bounds of `QueueSettings`."""
    return Overloaded(
        f"the queue is full: {bound} is {limit}",
        reason="QUEUE_FULL",
        details={"bound": bound, "limit": limit},
        retry_after=retry_after,
    )


def job_conflict(job_id: str) -> JobConflict:
    """The refusal of a job whose id is taken."""
    return JobConflict(
        f"job {job_id!r} is known with other content: give each job an id of its own",
        reason="JOB_CONFLICT",
        details={"job": job_id},
    )


def job_not_found(job_id: str) -> JobNotFound:
    """The answer about an id that no job has."""
    return JobNotFound(
        f"no job has the id {job_id!r}", reason="JOB_NOT_FOUND", details={"job": job_id}
    )
