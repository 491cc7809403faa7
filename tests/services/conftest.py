"""A real Redis, and both queues behind one fixture."""

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import redis

from counterhint.errors import EngineFailure
from counterhint.jobs import Cost
from deploy.local.redis import LocalRedis
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.records import QueuedJob, QueueSettings
from services.queue.redis_streams import RedisQueue

OpenQueue = Callable[[QueueSettings], JobQueue]

ACL_RULES = Path(__file__).parents[2] / "deploy" / "redis" / "acl-rules"

_prefixes = (f"{{counterhint}}:test{number}" for number in count())


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    server = LocalRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def queue_user_url(redis_server: LocalRedis) -> str:
    """The Redis as a user that may do what the queue needs, and no more."""
    with redis.Redis.from_url(redis_server.url) as operator:
        rules = ACL_RULES.read_text().split()
        operator.execute_command("ACL", "SETUSER", "queue", "on", ">secret", *rules)
    return f"unix://queue:secret@{redis_server.socket}"


@pytest.fixture(params=["memory", "redis"])
def open_queue(request: pytest.FixtureRequest) -> OpenQueue:
    """Makes an empty queue of the kind that the test runs on."""
    if request.param == "memory":
        return MemoryQueue
    url: str = request.getfixturevalue("queue_user_url")
    return lambda settings: RedisQueue(url, settings, prefix=next(_prefixes))


@pytest.fixture
def filled_redis(redis_server: LocalRedis) -> str:
    """A Redis whose queue holds a done, a dead and a queued job of run `first`."""

    async def fill() -> None:
        async with RedisQueue(redis_server.url, QueueSettings(max_attempts=1)) as queue:
            await queue._redis.flushdb()
            for name in ("done", "dead", "queued"):
                await queue.enqueue(QueuedJob(name, "first", 10, b"payload"))
            done, dead = await queue.claim("worker"), await queue.claim("worker")
            assert done is not None
            assert dead is not None
            await queue.complete(done, b"response", Cost(20, 10, 0.5, 0.0, 2, 6))
            await queue.fail(dead, EngineFailure("no", reason="ENGINE_FAILED"), retryable=True)

    asyncio.run(fill())
    return redis_server.url
