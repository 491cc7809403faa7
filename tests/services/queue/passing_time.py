"""What time would do to a queue, at once; and who waits for what."""

import asyncio
from heapq import heappush

from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.redis_streams import RedisQueue


async def end_lease(queue: JobQueue, job_id: str) -> None:
    """The job's lease has run out by now, unless it is renewed."""
    if isinstance(queue, MemoryQueue):
        queue._jobs[job_id].lease_until = 0.0
    elif isinstance(queue, RedisQueue):
        await queue._calls.call("ZADD", queue._key("leases"), 0, job_id)


async def end_level(queue: JobQueue, job_id: str) -> None:
    """The job has been in its level for so long that it is due to rise."""
    if isinstance(queue, MemoryQueue):
        job = queue._jobs[job_id]
        job.rises_at = 0.0
        heappush(queue._aging, (job.rises_at, next(queue._arrivals), job))
    elif isinstance(queue, RedisQueue):
        await queue._calls.call("ZADD", queue._key("aging"), 0, job_id)


async def waited_for(queue: JobQueue, name: str) -> None:
    """Returns when somebody waits for an announcement; only a broken test waits for long."""
    async with asyncio.timeout(240.0):
        while name not in queue._announcements._listeners:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
