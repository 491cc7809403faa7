"""The queue in process: for an intake and a dispatcher that live and die together."""

import time
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from typing_extensions import override

from counterhint.jobs import TeacherInfo
from services.queue.base import WORK, JobQueue
from services.queue.errors import job_conflict, job_not_found, outcome_of, queue_full
from services.queue.records import (
    Claim,
    JobRecord,
    JobState,
    Outcome,
    QueuedJob,
    QueueSettings,
    Reaped,
    RunStats,
)


@dataclass(eq=False)
class _Job:
    submitted: QueuedJob
    digest: str
    number: int
    """Order of acceptance."""
    accepted: float
    deadline: float
    state: JobState = JobState.QUEUED
    attempt: int = 0
    failures: int = 0
    reason: str = ""
    worker: str = ""
    lease_until: float = 0.0
    wait_seconds: float = 0.0
    body: bytes = b""
    kept_until: float = float("inf")


@dataclass
class _Run:
    queue: list[_Job] = field(default_factory=list)
    """Queued jobs in the order of acceptance."""
    claimed: int = 0
    bytes: int = 0
    counter: int = 0
    """Virtual tokens: where the run stands in its share."""
    tokens: int = 0
    finished: dict[JobState, int] = field(default_factory=dict)


class MemoryQueue(JobQueue):
    """A `JobQueue` in this process's memory, for one event loop."""

    def __init__(self, settings: QueueSettings | None = None) -> None:
        super().__init__(settings or QueueSettings())
        self._jobs: dict[str, _Job] = {}
        self._runs: dict[str, _Run] = {}
        self._clock = 0
        """Virtual tokens of the run that was served last, before it was."""
        self._accepted = 0
        self._teacher: tuple[TeacherInfo, float] | None = None

    @override
    async def enqueue(self, job: QueuedJob) -> JobState:
        now = time.monotonic()
        timeout = self.settings.job_seconds if job.timeout is None else job.timeout
        known = self._jobs.get(job.id)
        if known is not None and now < known.kept_until:
            if known.digest != job.digest:
                raise job_conflict(job.id)
            if known.state in (JobState.QUEUED, JobState.CLAIMED, JobState.DONE, JobState.DEAD):
                known.deadline = max(known.deadline, now + timeout)
                return known.state
        self._check_bounds(job)
        self._accepted += 1
        accepted = _Job(job, job.digest, self._accepted, accepted=now, deadline=now + timeout)
        if known is not None:
            accepted.attempt = known.attempt
        self._jobs[job.id] = accepted
        self._run(accepted).bytes += len(job.payload)
        self._make_ready(accepted)
        return JobState.QUEUED

    def _check_bounds(self, job: QueuedJob) -> None:
        run = self._runs.get(job.run_id, _Run())
        size = len(job.payload)
        settings = self.settings
        unfinished = sum(len(run.queue) + run.claimed for run in self._runs.values())
        unfinished_bytes = sum(run.bytes for run in self._runs.values())
        for bound, limit, value in (
            ("max_jobs", settings.max_jobs, unfinished + 1),
            ("max_bytes", settings.max_bytes, unfinished_bytes + size),
            ("max_run_jobs", settings.max_run_jobs, len(run.queue) + run.claimed + 1),
            ("max_run_bytes", settings.max_run_bytes, run.bytes + size),
        ):
            if value > limit:
                raise queue_full(bound, limit, settings.retry_after)

    def _run(self, job: _Job) -> _Run:
        return self._runs.setdefault(job.submitted.run_id, _Run())

    def _make_ready(self, job: _Job) -> None:
        run = self._run(job)
        if not run.queue:  # what a run left unused while it was idle is not saved up
            run.counter = max(run.counter, self._clock)
        insort(run.queue, job, key=lambda queued: queued.number)
        job.state = JobState.QUEUED
        self._announcements.announce(WORK)

    def _finish(self, job: _Job, state: JobState, reason: str = "", body: bytes = b"") -> None:
        run = self._run(job)
        if job.state is JobState.QUEUED:
            run.queue.remove(job)
        else:
            run.claimed -= 1
        run.bytes -= len(job.submitted.payload)
        run.finished[state] = run.finished.get(state, 0) + 1
        job.state, job.body = state, body
        job.reason = reason or job.reason
        if state is JobState.DEAD:
            job.kept_until = time.monotonic() + self.settings.dead_seconds
        else:
            job.submitted = replace(job.submitted, payload=b"")
            job.kept_until = time.monotonic() + self.settings.result_seconds
        self._announcements.announce(job.submitted.id)

    @override
    async def outcome(self, job_id: str) -> Outcome | None:
        job = self._find(job_id)
        if not job.state.finished:
            return None
        return outcome_of(job_id, job.state, job.body, job.reason, job.wait_seconds)

    def _find(self, job_id: str) -> _Job:
        job = self._jobs.get(job_id)
        if job is None or time.monotonic() >= job.kept_until:
            raise job_not_found(job_id)
        return job

    @override
    async def cancel(self, job_id: str) -> JobState:
        job = self._find(job_id)
        if not job.state.finished:
            self._finish(job, JobState.CANCELLED)
        return job.state

    @override
    async def _claim_now(self, worker: str) -> Claim | None:
        now = time.monotonic()
        while ready := [(run.counter, name) for name, run in self._runs.items() if run.queue]:
            counter, name = min(ready)
            run = self._runs[name]
            job = run.queue[0]
            if job.deadline <= now:
                self._finish(job, JobState.EXPIRED)
                continue
            del run.queue[0]
            self._clock = counter
            run.counter += job.submitted.cost
            run.tokens += job.submitted.cost
            run.claimed += 1
            job.state, job.worker = JobState.CLAIMED, worker
            job.attempt += 1
            job.lease_until = now + self.settings.lease_seconds
            job.wait_seconds = now - job.accepted
            return Claim(
                id=job.submitted.id,
                run_id=name,
                cost=job.submitted.cost,
                worker=worker,
                attempt=job.attempt,
                failures=job.failures,
                payload=job.submitted.payload,
                wait_seconds=job.wait_seconds,
                timeout=job.deadline - now,
            )
        return None

    def _held(self, claim: Claim) -> _Job | None:
        job = self._jobs.get(claim.id)
        if job is None or job.state is not JobState.CLAIMED:
            return None
        return job if (job.worker, job.attempt) == (claim.worker, claim.attempt) else None

    @override
    async def heartbeat(self, claims: Sequence[Claim]) -> set[str]:
        lost = set()
        for claim in claims:
            job = self._held(claim)
            if job is None:
                lost.add(claim.id)
            else:
                job.lease_until = time.monotonic() + self.settings.lease_seconds
        return lost

    @override
    async def complete(self, claim: Claim, response: bytes) -> bool:
        job = self._held(claim)
        if job is not None:
            self._finish(job, JobState.DONE, body=response)
        return job is not None

    @override
    async def _fail_for_good(self, claim: Claim, reason: str, failure: bytes) -> bool:
        job = self._held(claim)
        if job is not None:
            self._finish(job, JobState.FAILED, reason, failure)
        return job is not None

    @override
    async def _give_back(self, claim: Claim, *, counted: bool, reason: str) -> bool:
        job = self._held(claim)
        if job is None:
            return False
        if counted:
            self._count_failure(job, reason)
        else:
            run = self._run(job)
            run.counter -= claim.cost
            run.tokens -= claim.cost
            run.claimed -= 1
            self._make_ready(job)
        return True

    def _count_failure(self, job: _Job, reason: str) -> bool:
        """Puts the job back, or aside when it has failed too often; whether it was put aside."""
        job.failures += 1
        job.reason = reason
        dead = job.failures >= self.settings.max_attempts
        if dead:
            self._finish(job, JobState.DEAD, reason)
        else:
            self._run(job).claimed -= 1
            self._make_ready(job)
        return dead

    @override
    async def reap(self) -> Reaped:
        now = time.monotonic()
        redelivered = dead = expired = 0
        for job in list(self._jobs.values()):
            if job.state is JobState.CLAIMED and job.lease_until <= now:
                put_aside = self._count_failure(job, "LEASE_LOST")
                dead += put_aside
                redelivered += not put_aside
        for job in list(self._jobs.values()):
            if job.state is JobState.QUEUED and job.deadline <= now:
                self._finish(job, JobState.EXPIRED)
                expired += 1
            if job.kept_until <= now:
                del self._jobs[job.submitted.id]
        return Reaped(redelivered, dead, expired)

    @override
    async def publish_teacher(self, teacher: TeacherInfo, seconds: float) -> None:
        self._teacher = teacher, time.monotonic() + seconds

    @override
    async def teacher(self) -> TeacherInfo | None:
        if self._teacher is None or time.monotonic() >= self._teacher[1]:
            return None
        return self._teacher[0]

    @override
    async def stats(self) -> list[RunStats]:
        return [
            RunStats(
                run_id=name,
                queued=len(run.queue),
                claimed=run.claimed,
                bytes=run.bytes,
                tokens=run.tokens,
                **{state.value: count for state, count in run.finished.items()},
            )
            for name, run in sorted(self._runs.items())
        ]

    @override
    async def job(self, job_id: str) -> JobRecord:
        return _record(self._find(job_id))

    @override
    async def dead(self) -> list[JobRecord]:
        now = time.monotonic()
        dead = [
            job
            for job in self._jobs.values()
            if job.state is JobState.DEAD and now < job.kept_until
        ]
        return [_record(job) for job in sorted(dead, key=lambda job: job.kept_until)]

    @override
    async def retry(self, job_id: str) -> bool:
        job = self._find(job_id)
        if job.state is not JobState.DEAD:
            return False
        self._run(job).finished[JobState.DEAD] -= 1
        self._run(job).bytes += len(job.submitted.payload)
        job.failures, job.kept_until = 0, float("inf")
        job.deadline = time.monotonic() + self.settings.job_seconds
        self._make_ready(job)
        return True

    @override
    async def purge(self, run_id: str) -> int:
        purged, now = 0, time.monotonic()
        jobs = [job for job in self._jobs.values() if job.submitted.run_id == run_id]
        for job in [job for job in jobs if now < job.kept_until]:
            if job.state is JobState.DEAD:
                self._run(job).finished[JobState.DEAD] -= 1
                del self._jobs[job.submitted.id]
                purged += 1
            elif not job.state.finished:
                self._finish(job, JobState.CANCELLED, "PURGED")
                purged += 1
        return purged


def _record(job: _Job) -> JobRecord:
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
