"""The intake when its Redis is full, and when somebody else writes into it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterhint.channel import open_channel
from counterhint.client import AsyncScoringClient
from counterhint.errors import EngineFailure, InvalidJob
from deploy.local.redis import LocalRedis
from services.queue.records import QueueSettings
from services.queue.redis_streams import RedisQueue
from services.server import serve_intake
from tests.services.scripted_teacher import ScriptedTeacher, make_job

PREFIX = "{intake}"
Test = Callable[[RedisQueue, AsyncScoringClient, str], Awaitable[None]]


def with_intake(server: LocalRedis, folder: Path, test: Test) -> None:
    address = f"unix://{folder}/intake.sock"

    async def run() -> None:
        async with RedisQueue(server.url, QueueSettings(retry_after=0.1), prefix=PREFIX) as queue:
            await queue.publish_teacher(ScriptedTeacher().info, seconds=3600.0)
            async with (
                serve_intake(queue, address),
                AsyncScoringClient(address, timeout=240.0) as client,
            ):
                await test(queue, client, address)

    asyncio.run(run())


def test_a_full_redis_makes_the_intake_not_ready_until_it_has_room(
    redis_server: LocalRedis, tmp_path: Path
) -> None:
    async def test(queue: RedisQueue, client: AsyncScoringClient, address: str) -> None:
        states = health_pb2.HealthCheckResponse
        async with open_channel(address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            while (await watch.read()).status != states.SERVING:
                pass
            with redis.Redis.from_url(redis_server.url) as direct:
                try:
                    direct.config_set("maxmemory", 1)
                    assert (await watch.read()).status == states.NOT_SERVING
                finally:
                    direct.config_set("maxmemory", 0)
            assert (await watch.read()).status == states.SERVING

    with_intake(redis_server, tmp_path, test)


@pytest.mark.parametrize("state", ["done", "failed"])
def test_an_outcome_that_is_no_message_is_a_typed_error(
    redis_server: LocalRedis, tmp_path: Path, state: str
) -> None:
    async def test(queue: RedisQueue, client: AsyncScoringClient, address: str) -> None:
        call = asyncio.create_task(client.score(make_job(state)))
        claim = await queue.claim("worker", timeout=240.0)
        assert claim is not None
        if state == "done":
            assert await queue.complete(claim, b"\xff no message")
        else:
            assert await queue._fail_for_good(claim, "STRANGE", b"\xff no message")
        with pytest.raises(EngineFailure) as refusal:
            await call
        assert refusal.value.reason == "OUTCOME_UNREADABLE"
        assert refusal.value.details["job"] == claim.id

    with_intake(redis_server, tmp_path, test)


@pytest.mark.parametrize("priority", [-1, 4])
def test_a_priority_that_is_no_level_never_reaches_the_queue(
    redis_server: LocalRedis, tmp_path: Path, priority: int
) -> None:
    async def test(queue: RedisQueue, client: AsyncScoringClient, address: str) -> None:
        with pytest.raises(InvalidJob) as refusal:
            await client.score(replace(make_job("odd"), priority=priority))
        assert refusal.value.reason == "PRIORITY_OUT_OF_RANGE"
        assert await queue.claim("worker") is None

    with_intake(redis_server, tmp_path, test)
