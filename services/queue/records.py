"""What the queue holds and tells: jobs, claims, outcomes, counts and bounds."""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property


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
