"""The queue's errors, and the outcomes that no worker writes."""

from counterhint.errors import (
    CounterhintError,
    DeadlinePassed,
    InvalidJob,
    JobCancelled,
    JobConflict,
    JobDeadLettered,
    JobNotFound,
    Overloaded,
    Unavailable,
    failure_to_message,
)
from services.queue.records import TOP_PRIORITY, JobState, Outcome

NOT_NOW = (Unavailable, Overloaded)
"""Errors of a queue that pass by themselves: its store is away, or full."""


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
    """The refusal of a job because of one of the bounds of `QueueSettings` or `RunPolicy`."""
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


def run_not_found(run_id: str) -> JobNotFound:
    """The answer about a run that never had a job, or none for so long that it was forgotten."""
    return JobNotFound(
        f"no run has the id {run_id!r}", reason="RUN_NOT_FOUND", details={"run": run_id}
    )


def priority_out_of_range(job_id: str, priority: int) -> InvalidJob:
    """The refusal of a priority that is none of the queue's levels."""
    return InvalidJob(
        f"job {job_id!r} has priority {priority}; give 0 to {TOP_PRIORITY}",
        reason="PRIORITY_OUT_OF_RANGE",
        details={"job": job_id, "priority": priority, "highest": TOP_PRIORITY},
    )


def priority_too_high(job_id: str, priority: int, highest: int) -> InvalidJob:
    """The refusal of a priority above the ceiling of the job's run."""
    return InvalidJob(
        f"job {job_id!r} has priority {priority}, and its run may use up to {highest}",
        reason="PRIORITY_TOO_HIGH",
        details={"job": job_id, "priority": priority, "highest": highest},
    )
