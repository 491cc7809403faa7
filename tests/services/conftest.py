"""A real Redis, and both queues behind one fixture."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from deploy.local.redis import LocalRedis
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.queue.records import QueueSettings
from services.queue.redis_streams import RedisQueue

OpenQueue = Callable[[QueueSettings], JobQueue]

_prefixes = (f"test{number}" for number in count())


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    server = LocalRedis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["memory", "redis"])
def open_queue(request: pytest.FixtureRequest) -> OpenQueue:
    """Makes an empty queue of the kind that the test runs on."""
    if request.param == "memory":
        return MemoryQueue
    server: LocalRedis = request.getfixturevalue("redis_server")
    return lambda settings: RedisQueue(server.url, settings, prefix=next(_prefixes))
