"""The queue in process: for an intake and a dispatcher that live and die together."""

import time
from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import count

from typing_extensions import override

from counterhint.jobs import Cost, TeacherInfo
from services.queue.backlog import DrainRate
from services.queue.base import WORK, JobQueue
from services.queue.errors import (
    job_conflict,
    job_not_found,
    outcome_of,
    priority_too_high,
    queue_full,
    run_not_found,
)
from services.queue.fair_share import FairShare
from services.queue.memory_records import LEVELS, Job, Run, job_record, stats_of_runs
from services.queue.records import (
    TOP_PRIORITY,
    Claim,
    JobRecord,
    JobState,
    Outcome,
    QueuedJob,
    QueueSettings,
    Reaped,
    RunPolicy,
    RunRecord,
)


class MemoryQueue(JobQueue):
    """A `JobQueue` in this process's memory, for one event loop."""

    def __init__(self, settings: QueueSettings | None = None) -> None:
        super().__init__(settings or QueueSettings())
        self._jobs: dict[str, Job] = {}
        self._runs: dict[str, Run] = {}
        self._ready = [FairShare() for _ in LEVELS]
        """Runs with queued jobs, by level."""
        self._aging: list[tuple[float, int, Job]] = []
        """A heap of when jobs rise; entries that their job contradicts are out of date."""
        self._arrivals = count()
        self._drain = DrainRate()
        self._unfinished = self._bytes = self._waiting = 0
        self._teacher: tuple[TeacherInfo, float] | None = None

    @override
    async def _enqueue(self, job: QueuedJob, policy: RunPolicy | None) -> JobState:
        now = time.monotonic()
        timeout = self.settings.job_seconds if job.timeout is None else job.timeout
        known = self._jobs.get(job.id)
        if known is not None and now < known.kept_until:
            if known.digest != job.digest:
                raise job_conflict(job.id)
            if known.state in (JobState.QUEUED, JobState.CLAIMED, JobState.DONE, JobState.DEAD):
                known.deadline = max(known.deadline, now + timeout)
                return known.state
        self._check_bounds(job, self._policy(job.run_id, policy), now)
        accepted = Job(job, job.digest, now, deadline=now + timeout, level=job.priority)
        if known is not None and now < known.kept_until:
            accepted.attempt = known.attempt
        self._jobs[job.id] = accepted
        self._add(accepted)
        return JobState.QUEUED

    def _policy(self, run_id: str, given: RunPolicy | None) -> RunPolicy:
        """The run's policy, which is the given one from now on unless an operator set it."""
        run = self._runs.get(run_id)
        if given is not None:
            run = self._runs.setdefault(run_id, Run())
            run.given = given
            if not run.set_by_operator:
                run.policy = given
        return RunPolicy() if run is None else run.policy

    def _check_bounds(self, job: QueuedJob, policy: RunPolicy, now: float) -> None:
        if job.priority > policy.max_priority:
            raise priority_too_high(job.id, job.priority, policy.max_priority)
        run = self._runs.get(job.run_id, Run())
        size = job.size
        bounds = self.settings
        run_jobs, run_bytes = bounds.max_run_jobs, bounds.max_run_bytes
        if policy.max_jobs is not None:
            run_jobs = min(run_jobs, policy.max_jobs)
        if policy.max_bytes is not None:
            run_bytes = min(run_bytes, policy.max_bytes)
        for bound, limit, value, waiting in (
            ("max_jobs", bounds.max_jobs, self._unfinished + 1, self._waiting),
            ("max_bytes", bounds.max_bytes, self._bytes + size, self._waiting),
            ("max_run_jobs", run_jobs, run.queued + run.claimed + 1, run.waiting),
            ("max_run_bytes", run_bytes, run.bytes + size, run.waiting),
        ):
            if value > limit:
                raise queue_full(bound, limit, self._drain.retry_after(waiting, now, bounds))

    def _run(self, job: Job) -> Run:
        return self._runs.setdefault(job.submitted.run_id, Run())

    def _add(self, job: Job) -> None:
        """The job is unfinished, as a new one or once more."""
        self._count_unfinished(job, 1)
        job.number = next(self._arrivals)
        self._make_ready(job)

    def _count_unfinished(self, job: Job, change: int) -> None:
        run, size = self._run(job), job.submitted.size
        run.bytes += change * size
        run.waiting += change * job.submitted.cost
        self._unfinished += change
        self._bytes += change * size
        self._waiting += change * job.submitted.cost

    def _make_ready(self, job: Job, *, returned: bool = False) -> None:
        job.state = JobState.QUEUED
        run = self._run(job)
        run.lanes[job.level].add(job.number, job, returned=returned)
        self._age(job)
        if len(run.lanes[job.level]) == 1 and not run.paused:
            self._ready[job.level].enter(job.submitted.run_id)
            self._announcements.announce(WORK)

    def _age(self, job: Job) -> None:
        """The job rises when it has been in its level for long enough."""
        if job.level < TOP_PRIORITY:
            job.rises_at = time.monotonic() + self.settings.aging_seconds
            heappush(self._aging, (job.rises_at, next(self._arrivals), job))

    def _leave_lane(self, job: Job) -> None:
        lane = self._run(job).lanes[job.level]
        lane.remove(job.number)
        job.rises_at = 0.0
        if not lane:
            self._ready[job.level].leave(job.submitted.run_id)

    def _rise(self, now: float) -> None:
        """Jobs that have been in their level for so long rise; a paused run's do not."""
        while self._aging and self._aging[0][0] <= now:
            due, _, job = heappop(self._aging)
            if job.rises_at != due:
                continue
            if self._run(job).paused:
                self._age(job)
                continue
            self._leave_lane(job)
            job.level += 1
            job.number = next(self._arrivals)
            self._make_ready(job)

    def _finish(self, job: Job, state: JobState, reason: str = "", body: bytes = b"") -> None:
        run = self._run(job)
        if job.state is JobState.QUEUED:
            self._leave_lane(job)
        else:
            run.claimed -= 1
        self._count_unfinished(job, -1)
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

    def _find(self, job_id: str) -> Job:
        job = self._jobs.get(job_id)
        if job is None or time.monotonic() >= job.kept_until:
            raise job_not_found(job_id)
        return job

    @override
    async def note(self, job_id: str) -> bytes:
        return self._find(job_id).submitted.note

    @override
    async def cancel(self, job_id: str) -> JobState:
        job = self._find(job_id)
        if not job.state.finished:
            self._finish(job, JobState.CANCELLED)
        return job.state

    @override
    async def _claim_now(self, worker: str) -> Claim | None:
        now = time.monotonic()
        self._rise(now)
        for level in reversed(LEVELS):
            while (run_id := self._ready[level].first()) is not None:
                job = self._runs[run_id].lanes[level].first()
                if job.deadline > now:
                    return self._take(job, worker, now)
                self._finish(job, JobState.EXPIRED)
        return None

    def _take(self, job: Job, worker: str, now: float) -> Claim:
        run, submitted = self._run(job), job.submitted
        job.charge = submitted.cost / run.policy.weight
        self._ready[job.level].charge(submitted.run_id, job.charge)
        self._leave_lane(job)
        self._drain.add(submitted.cost, now)
        run.tokens += submitted.cost
        run.claimed += 1
        job.state, job.worker = JobState.CLAIMED, worker
        job.attempt += 1
        job.lease_until = now + self.settings.lease_seconds
        job.wait_seconds = now - job.accepted
        return Claim(
            id=submitted.id,
            run_id=submitted.run_id,
            cost=submitted.cost,
            worker=worker,
            attempt=job.attempt,
            failures=job.failures,
            payload=submitted.payload,
            wait_seconds=job.wait_seconds,
            timeout=job.deadline - now,
            trace=submitted.trace,
        )

    def _held(self, claim: Claim) -> Job | None:
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
    async def complete(self, claim: Claim, response: bytes, cost: Cost | None = None) -> bool:
        job = self._held(claim)
        if job is not None:
            self._account(job, cost or Cost(0, 0))
            self._finish(job, JobState.DONE, body=response)
        return job is not None

    @override
    async def _fail_for_good(self, claim: Claim, reason: str, failure: bytes) -> bool:
        job = self._held(claim)
        if job is not None:
            self._account(job, Cost(0, 0))
            self._finish(job, JobState.FAILED, reason, failure)
        return job is not None

    def _account(self, job: Job, cost: Cost) -> None:
        run = self._run(job)
        run.cost = Cost(
            tokens_naive=run.cost.tokens_naive + cost.tokens_naive,
            tokens_computed=run.cost.tokens_computed + cost.tokens_computed,
            pairs_cached=run.cost.pairs_cached + cost.pairs_cached,
            tokens_cached=run.cost.tokens_cached + cost.tokens_cached,
            engine_seconds=run.cost.engine_seconds + cost.engine_seconds,
            wait_seconds=run.cost.wait_seconds + job.wait_seconds,
        )

    @override
    async def _give_back(self, claim: Claim, *, counted: bool, reason: str) -> bool:
        job = self._held(claim)
        if job is None:
            return False
        if counted:
            self._count_failure(job, reason)
        else:
            self._put_back(job)
        return True

    def _put_back(self, job: Job) -> None:
        """The run gets its charge back: it pays when the job is claimed again."""
        run = self._run(job)
        run.claimed -= 1
        run.tokens -= job.submitted.cost
        self._ready[job.level].charge(job.submitted.run_id, -job.charge)
        self._make_ready(job, returned=True)

    def _count_failure(self, job: Job, reason: str) -> bool:
        """Puts the job back, or aside when it has failed too often; whether it was put aside."""
        job.failures += 1
        job.reason = reason
        dead = job.failures >= self.settings.max_attempts
        if dead:
            self._account(job, Cost(0, 0))
            self._finish(job, JobState.DEAD, reason)
        else:
            self._put_back(job)
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
        self._rise(now)
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
    async def probe(self) -> None:
        return

    @override
    async def runs(self) -> list[RunRecord]:
        every = stats_of_runs(self._runs, self._jobs.values(), time.monotonic())
        runs = [(self._runs[stats.run_id], stats) for stats in every]
        return [RunRecord(run.policy, run.set_by_operator, stats) for run, stats in runs]

    @override
    async def run(self, run_id: str) -> RunRecord:
        self._find_run(run_id)
        return next(record for record in await self.runs() if record.stats.run_id == run_id)

    def _find_run(self, run_id: str) -> Run:
        if run_id not in self._runs:
            raise run_not_found(run_id)
        return self._runs[run_id]

    @override
    async def set_policy(self, run_id: str, policy: RunPolicy | None) -> None:
        if policy is None and run_id not in self._runs:
            return
        run = self._runs.setdefault(run_id, Run())
        run.policy = policy or run.given
        run.set_by_operator = policy is not None

    @override
    async def pause(self, run_id: str) -> None:
        self._runs.setdefault(run_id, Run()).paused = True
        for share in self._ready:
            share.leave(run_id)

    @override
    async def resume(self, run_id: str) -> bool:
        run = self._find_run(run_id)
        was_paused, run.paused = run.paused, False
        if was_paused:
            for lane, share in zip(run.lanes, self._ready, strict=True):
                if lane:
                    share.enter(run_id)
            self._announcements.announce(WORK)
        return was_paused

    @override
    async def job(self, job_id: str) -> JobRecord:
        return job_record(self._find(job_id))

    @override
    async def dead(self) -> list[JobRecord]:
        now = time.monotonic()
        dead = [
            job
            for job in self._jobs.values()
            if job.state is JobState.DEAD and now < job.kept_until
        ]
        return [job_record(job) for job in sorted(dead, key=lambda job: job.kept_until)]

    @override
    async def retry(self, job_id: str) -> bool:
        job = self._find(job_id)
        if job.state is not JobState.DEAD:
            return False
        self._run(job).finished[JobState.DEAD] -= 1
        job.failures, job.kept_until = 0, float("inf")
        job.deadline = time.monotonic() + self.settings.job_seconds
        job.level = job.submitted.priority
        self._add(job)
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
