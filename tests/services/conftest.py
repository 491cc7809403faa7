"""A real Redis, and both queues behind one fixture."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import redis

from deploy.local.redis import LocalRedis
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.records import QueueSettings
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
