"""What the queue in process keeps of its jobs and runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from counterhint.jobs import Cost
from services.queue.lane import Lane
from services.queue.records import (
    TOP_PRIORITY,
    JobRecord,
    JobState,
    QueuedJob,
    RunPolicy,
    RunStats,
)

LEVELS = range(TOP_PRIORITY + 1)
"""The priorities."""


@dataclass(eq=False)
class Job:
    """A job from its acceptance until its outcome is forgotten."""

    submitted: QueuedJob
    digest: str
    accepted: float
    deadline: float
    level: int
    """The priority, and one more for each step of aging."""
    number: int = 0
    """Order of arrival in its level."""
    rises_at: float = 0.0
    state: JobState = JobState.QUEUED
    attempt: int = 0
    failures: int = 0
    reason: str = ""
    worker: str = ""
    charge: float = 0.0
    """Virtual tokens of the last claim."""
    lease_until: float = 0.0
    wait_seconds: float = 0.0
    body: bytes = b""
    kept_until: float = float("inf")


@dataclass
class Run:
    """What counts for one run."""

    lanes: tuple[Lane[Job], ...] = field(default_factory=lambda: tuple(Lane() for _ in LEVELS))
    """Queued jobs by level."""
    policy: RunPolicy = field(default_factory=RunPolicy)
    set_by_operator: bool = False
    given: RunPolicy = field(default_factory=RunPolicy)
    """The policy that came with its jobs last."""
    paused: bool = False
    claimed: int = 0
    bytes: int = 0
    waiting: int = 0
    """Cost of its unfinished jobs."""
    tokens: int = 0
    cost: Cost = field(default_factory=lambda: Cost(0, 0))
    """What its results took."""
    finished: dict[JobState, int] = field(default_factory=dict)

    @property
    def queued(self) -> int:
        """Its queued jobs of all levels."""
        return sum(len(lane) for lane in self.lanes)


def job_record(job: Job) -> JobRecord:
    """A job as operators see it."""
    return JobRecord(
        id=job.submitted.id,
        run_id=job.submitted.run_id,
        state=job.state,
        cost=job.submitted.cost,
        priority=job.submitted.priority,
        attempt=job.attempt,
        failures=job.failures,
        reason=job.reason,
    )


def stats_of_runs(runs: Mapping[str, Run], jobs: Iterable[Job], now: float) -> list[RunStats]:
    """All runs as operators see them, by id."""
    oldest: dict[str, float] = {}
    for job in jobs:
        if job.state is JobState.QUEUED:
            run_id = job.submitted.run_id
            oldest[run_id] = min(oldest.get(run_id, job.accepted), job.accepted)
    return [
        _run_stats(run_id, run, now - oldest.get(run_id, now))
        for run_id, run in sorted(runs.items())
    ]


def _run_stats(run_id: str, run: Run, oldest_seconds: float) -> RunStats:
    return RunStats(
        run_id=run_id,
        paused=run.paused,
        queued=run.queued,
        claimed=run.claimed,
        bytes=run.bytes,
        tokens=run.tokens,
        tokens_naive=run.cost.tokens_naive,
        tokens_computed=run.cost.tokens_computed,
        pairs_cached=run.cost.pairs_cached,
        tokens_cached=run.cost.tokens_cached,
        engine_seconds=run.cost.engine_seconds,
        wait_seconds=run.cost.wait_seconds,
        oldest_seconds=oldest_seconds,
        **{state.value: count for state, count in run.finished.items()},
    )
