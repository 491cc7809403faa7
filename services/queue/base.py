"""The queue's interface: what is queued, who holds it, how it ends.

A job is accepted once (`enqueue`), executed at least once, and ends in exactly one visible outcome:

    queued ──claim──▶ claimed ──complete──▶ done
       ▲                 │ └────fail──────▶ failed
       └─release, retry──┘ └─ too often ──▶ dead ──retry──▶ queued
    queued or claimed ──cancel──▶ cancelled;   queued past its deadline ──▶ expired

A claim is a lease. Its holder proves itself by its name and the attempt number: what it writes
after the lease has gone to somebody else is discarded.

Who is next: the highest level that has a job; in it, the run with the lowest virtual token counter
(VTC, arXiv 2401.00588); of that run, the job that came first. A job enters the level of its
priority and rises by one for every `aging_seconds` that it waits. docs/queue.md has the details.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from counterhint.errors import CounterhintError, Unavailable, failure_to_message
from counterhint.jobs import Cost, TeacherInfo
from services.queue.announcements import Announcements, wait_for_event
from services.queue.errors import priority_out_of_range
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
    RunStats,
)

WORK = ":work"
"""The announcement that there may be something to claim; any other one is a finished job's id."""


class JobQueue(ABC):
    """A bounded queue that is fair between runs by tokens.

    Used as an async context manager. Every method may raise `Unavailable` while the queue's store
    cannot be reached, except those that say that they wait.
    """

    poll_seconds: float = 5.0
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

    @abstractmethod
    async def probe(self) -> None:
        """Returns when jobs can be accepted.

        Raises:
            Overloaded: the store takes no writes: its memory or its disk is full.
        """

    # Clients

    async def enqueue(self, job: QueuedJob, policy: RunPolicy | None = None) -> JobState:
        """Accepts a job, or joins the one that is there under its id.

        A job that is queued, claimed, done or dead stays as it is (its deadline moves to the later
        one); one that failed, expired or was cancelled is tried anew.

        Args:
            job: the job.
            policy: what its run may take from now on, unless an operator has set that; None leaves
                the run's policy as it is.

        Returns:
            The job's state.

        Raises:
            InvalidJob: the priority is no level of the queue, or above the run's ceiling.
            JobConflict: the id is known with other content.
            Overloaded: a bound is reached; `retry_after` says when to come back, and grows with
                the tokens that wait.
        """
        if not 0 <= job.priority <= TOP_PRIORITY:
            raise priority_out_of_range(job.id, job.priority)
        return await self._enqueue(job, policy)

    @abstractmethod
    async def _enqueue(self, job: QueuedJob, policy: RunPolicy | None) -> JobState:
        """`enqueue` of a job whose priority is one of the queue's levels."""

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
    async def note(self, job_id: str) -> bytes:
        """What was queued with the job for whoever asks for its outcome.

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
        """The next job; None after `timeout` seconds.

        Its cost is charged to its run until it is given back.
        """
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
    async def complete(self, claim: Claim, response: bytes, cost: Cost | None = None) -> bool:
        """Ends a job with a serialized `ScoreResponse`; False when the lease was lost.

        `cost`, what the job took, goes to the run's accounts.
        """

    async def fail(self, claim: Claim, error: CounterhintError, *, retryable: bool) -> bool:
        """Ends a delivery with an error; False when the lease was lost.

        A retryable one gives the job back, or puts it aside once it has failed `max_attempts`
        times; any other is the job's outcome.
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
        """Puts a claimed job back in front of its run's others and credits its cost to the run.

        Returns:
            False when the lease was lost.
        """

    @abstractmethod
    async def reap(self) -> Reaped:
        """Takes back leases that ran out, and ends queued jobs whose deadline has passed."""

    # Teachers

    @abstractmethod
    async def publish_teacher(self, teacher: TeacherInfo, seconds: float) -> None:
        """Says what the connected teachers are, for so long."""

    @abstractmethod
    async def teacher(self) -> TeacherInfo | None:
        """What the connected teachers are; None when none has been published lately."""

    # Operators

    @abstractmethod
    async def runs(self) -> list[RunRecord]:
        """Every known run, by id."""

    async def stats(self) -> list[RunStats]:
        """The counts of every known run, by id."""
        return [record.stats for record in await self.runs()]

    @abstractmethod
    async def run(self, run_id: str) -> RunRecord:
        """One run.

        Raises:
            JobNotFound: no run has this id (reason `RUN_NOT_FOUND`).
        """

    @abstractmethod
    async def set_policy(self, run_id: str, policy: RunPolicy | None) -> None:
        """Sets a run's policy, over what comes with its jobs; None puts back what came with them.

        The run need not be known yet. Its weight counts from its next claim, its bounds from its
        next job.
        """

    @abstractmethod
    async def pause(self, run_id: str) -> None:
        """Holds a run's queued jobs back until `resume`; their deadlines go on, their aging stops.

        More can be queued, and what is claimed is finished. The run need not be known yet.
        """

    @abstractmethod
    async def resume(self, run_id: str) -> bool:
        """Ends a pause; False when there was none.

        Raises:
            JobNotFound: no run has this id (reason `RUN_NOT_FOUND`).
        """

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
