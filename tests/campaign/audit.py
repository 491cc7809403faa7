"""What the queue holds after a run: how each job ended, the accounts, and what should be gone."""

from collections.abc import Iterable

import redis.asyncio as redis

from counterhint.errors import JobNotFound
from counterhint.tensors import decode_tensor
from counterhint.v1 import scoring_pb2
from services.queue.base import JobQueue
from services.queue.records import JobState
from tests.campaign.history import Final

PREFIX = "{counterhint}"
EMPTY = ("leases", "deadlines", "aging", *(f"ready:{level}" for level in range(4)))
"""Keys that exist only while jobs are unfinished, as do streams."""
TOTALS = ("jobs", "bytes", "waiting")
RUN_TOTALS = (
    *TOTALS,
    "claimed",
    *(f"{kind}:{level}" for kind in ("queued", "returned") for level in range(4)),
)


async def final_of(queue: JobQueue, job_id: str) -> Final | None:
    """How a job ended; None when the queue does not know it."""
    try:
        record = await queue.job(job_id)
        outcome = await queue.outcome(job_id)
    except JobNotFound:
        return None
    scores: tuple[float, ...] = ()
    if outcome is not None and outcome.state is JobState.DONE:
        response = scoring_pb2.ScoreResponse.FromString(outcome.body)
        scores = tuple(decode_tensor(response.scores.sampled).tolist())
    return Final(job_id, record.state, record.cost, record.reason, scores)


async def find_leftovers(url: str, runs: Iterable[str]) -> list[str]:
    """What a queue without unfinished jobs should not hold, in words."""
    found = []
    async with redis.Redis.from_url(url, decode_responses=True) as store:
        for key in EMPTY:
            if await store.exists(f"{PREFIX}:{key}"):
                found.append(f"key {key} is there")
        async for key in store.scan_iter(f"{PREFIX}:stream:*"):
            found.append(f"key {key} is there")
        for name, fields in (("total", TOTALS), *((f"run:{run}", RUN_TOTALS) for run in runs)):
            counts = await store.hmget(f"{PREFIX}:{name}", *fields)
            found += [
                f"{name} counts {int(count)} {field}"
                for field, count in zip(fields, counts, strict=True)
                if count is not None and int(count) != 0
            ]
    return found
