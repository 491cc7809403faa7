"""What the queue holds and tells: jobs, claims, outcomes, counts and bounds."""

import hashlib
import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from counterhint.errors import InputError
from counterhint.request_context import TraceContext

TOP_PRIORITY = 3
"""Priorities are 0 to this; each is a level of its own, and a higher level is served first."""
LIGHTEST, HEAVIEST = 0.001, 1000.0
"""The weights that a run can have."""


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
    """Bounds and times of a queue; all processes on one queue use the same."""

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
    aging_seconds: float = 60.0
    """After so long in one priority's level, a queued job rises into the next one."""
    retry_after: float = 1.0
    """The least that a refused client is told to wait, in seconds."""
    max_retry_after: float = 30.0
    """The most that a refused client is told to wait, in seconds."""


@dataclass(frozen=True)
class RunPolicy:
    """What a run may take of the queue.

    Raises:
        InputError: a value that cannot be kept.
    """

    weight: float = 1.0
    """Its share of the tokens, compared with the weights of the other runs that have work."""
    max_priority: int = TOP_PRIORITY
    """The highest priority that its jobs may have."""
    max_jobs: int | None = None
    """Its unfinished jobs, where that is less than the queue's `max_run_jobs`."""
    max_bytes: int | None = None
    """Payload bytes of its unfinished jobs, where that is less than `max_run_bytes`."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and LIGHTEST <= self.weight <= HEAVIEST):
            raise InputError(f"weight is {self.weight}; give {LIGHTEST:g} to {HEAVIEST:g}")
        if not 0 <= self.max_priority <= TOP_PRIORITY:
            raise InputError(f"max_priority is {self.max_priority}; give 0 to {TOP_PRIORITY}")
        for name, bound in (("max_jobs", self.max_jobs), ("max_bytes", self.max_bytes)):
            if bound is not None and bound < 0:
                raise InputError(f"{name} is {bound}; give 0 or more, or none for no own bound")


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
    """0 to `TOP_PRIORITY`; higher is served first."""
    timeout: float | None = None
    """Seconds from now until the result is of no use; None for the queue's own bound."""
    trace: TraceContext = field(default_factory=TraceContext)
    """Who asks, for logs and traces. A job that is there keeps its own when it is sent again."""
    note: bytes = b""
    """For whoever asks for the outcome later; kept as long as that, and never sent to a worker."""

    @property
    def size(self) -> int:
        """What counts against the bounds on bytes while the job is unfinished."""
        return len(self.payload) + len(self.note)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of payload and note: the same id with another digest is another job."""
        digest = hashlib.sha256(self.payload)
        if self.note:
            digest.update(b"note" + hashlib.sha256(self.note).digest())
        return digest.hexdigest()


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
    trace: TraceContext = field(default_factory=TraceContext)
    """Who asks, as the job was queued with it."""


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
    paused: bool = False
    """Whether its jobs are held back."""
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
    """Cost of the claims so far, less those that were given back: what the run is charged."""
    tokens_naive: int = 0
    """Tokens that one forward pass a pair would have taken, of the results so far."""
    tokens_computed: int = 0
    """Tokens that engines computed for the results so far."""
    pairs_cached: int = 0
    """Pairs of the results so far that teachers answered without their engine."""
    tokens_cached: int = 0
    """Tokens that engines were spared by that."""
    engine_seconds: float = 0.0
    """Seconds inside engines for the results so far."""
    wait_seconds: float = 0.0
    """Seconds between acceptance and last claim, summed over the jobs that workers ended."""
    oldest_seconds: float = field(default=0.0, compare=False)
    """How long ago the oldest of its queued jobs was accepted; 0 when none is queued."""

    @property
    def wait_mean(self) -> float:
        """Mean seconds between acceptance and last claim of the jobs that workers ended."""
        return self.wait_seconds / max(1, self.done + self.failed + self.dead)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What the queue knows about one run."""

    policy: RunPolicy
    set_by_operator: bool
    """Whether an operator set the policy; what comes with the run's jobs then changes nothing."""
    stats: RunStats

    def facts(self) -> dict[str, Any]:
        """The run as people and programs are shown it, in one level; `wait_mean` in seconds."""
        return {
            **asdict(self.stats),
            "wait_mean": self.stats.wait_mean,
            **asdict(self.policy),
            "set_by_operator": self.set_by_operator,
        }


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one look at leases and deadlines did."""

    redelivered: int = 0
    dead: int = 0
    expired: int = 0
