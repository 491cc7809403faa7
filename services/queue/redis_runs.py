"""A run's hash in Redis: its policy and its counts."""

from collections.abc import Sequence

from services.queue.records import TOP_PRIORITY, RunPolicy, RunRecord, RunStats
from services.queue.redis_calls import Word

QUEUED = tuple(f"queued:{level}" for level in range(TOP_PRIORITY + 1))
COUNTS = (
    *("claimed", "bytes", "done", "failed", "cancelled", "expired", "dead"),
    *("tokens", "tokens_naive", "tokens_computed", "pairs_cached", "tokens_cached"),
)
"""Counts of a run's hash that `RunStats` has by the same name."""
STATS = ("paused", "engine_us", "wait_ms", *QUEUED, *COUNTS)
POLICY = ("operator", "weight", "max_priority", "max_jobs", "max_bytes")


def policy_words(policy: RunPolicy | None) -> tuple[Word, ...]:
    """A policy as the scripts take it; nothing for None."""
    if policy is None:
        return ()
    bounds = ("" if bound is None else bound for bound in (policy.max_jobs, policy.max_bytes))
    return (policy.weight, policy.max_priority, *bounds)


def _run_stats(run_id: str, oldest_ms: int, values: Sequence[bytes | None]) -> RunStats:
    """A run's counts from the fields `STATS` of its hash."""
    numbers = {name: int(value or 0) for name, value in zip(STATS, values, strict=True)}
    return RunStats(
        run_id,
        paused=bool(numbers["paused"]),
        queued=sum(numbers[name] for name in QUEUED),
        engine_seconds=numbers["engine_us"] / 1e6,
        wait_seconds=numbers["wait_ms"] / 1e3,
        oldest_seconds=oldest_ms / 1e3,
        **{name: numbers[name] for name in COUNTS},
    )


def run_record(run_id: str, oldest_ms: int, values: Sequence[bytes | None]) -> RunRecord:
    """A run from the fields `POLICY` and `STATS` of its hash."""
    operator, weight, max_priority, max_jobs, max_bytes = values[: len(POLICY)]
    return RunRecord(
        policy=RunPolicy(
            weight=float(weight or RunPolicy.weight),
            max_priority=int(max_priority or RunPolicy.max_priority),
            max_jobs=int(max_jobs) if max_jobs else None,
            max_bytes=int(max_bytes) if max_bytes else None,
        ),
        set_by_operator=operator is not None,
        stats=_run_stats(run_id, oldest_ms, values[len(POLICY) :]),
    )
