"""The queue when its Redis is away, comes back, or is full."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from counterhint.errors import InputError, Overloaded, Unavailable
from counterhint.request_context import TraceContext
from deploy.local.redis import LocalRedis
from services.queue.records import Claim, JobState, QueuedJob, QueueSettings, Reaped, RunStats
from services.queue.redis_streams import RedisQueue
from tests.processes import wait_until
from tests.services.queue.passing_time import waited_for

SETTINGS = QueueSettings(retry_after=0.1)
CRASH = Unavailable("the engine died", reason="ENGINE_DIED")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalRedis]:
    server = LocalRedis(tmp_path / "redis")
    server.start()
    yield server
    server.kill()


def job(job_id: str) -> QueuedJob:
    return QueuedJob(job_id, "run", 10, b"payload of " + job_id.encode())


async def claim(queue: RedisQueue) -> Claim:
    claimed = await queue.claim("worker")
    assert claimed is not None
    return claimed


async def claim_named(queue: RedisQueue, name: str) -> Claim:
    """Claims until that job comes, and gives the others back."""
    claims = [await claim(queue)]
    while claims[-1].id != name:
        claims.append(await claim(queue))
    for other in claims[:-1]:
        await queue.release(other)
    return claims[-1]


async def subscribed(client: redis.Redis) -> None:
    """Returns when the queue listens to announcements."""
    channel = "{counterhint}:announcements"
    async with asyncio.timeout(120.0):
        while not dict(client.pubsub_numsub(channel))[channel.encode()]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_accepted_jobs_and_claims_survive_a_crash_of_redis(server: LocalRedis) -> None:
    names = [f"job {number}" for number in range(20)]

    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            for name in names:
                await queue.enqueue(job(name))
            claims = [await queue.claim("worker") for _ in range(3)]
            clients = [asyncio.create_task(queue.wait_outcome(name, 240.0)) for name in names]
            for name in names:
                await waited_for(queue, name)
            with redis.Redis.from_url(server.url) as client:
                # While it waits for the disk, Redis writes up to 2 s later than it answers.
                wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0)

            server.kill()
            await asyncio.sleep(0.1)
            server.start()

            while (claim := await queue.claim("worker")) is not None:
                claims.append(claim)
            assert [claim.id for claim in claims if claim] == names
            assert not await queue.heartbeat([claim for claim in claims if claim])
            for claim in claims:
                assert claim is not None
                assert claim.payload == b"payload of " + claim.id.encode()
                assert await queue.complete(claim, claim.id.encode())
            outcomes = [await client for client in clients]
            assert [outcome and outcome.body.decode() for outcome in outcomes] == names

    asyncio.run(run())


def test_what_ended_while_the_subscription_was_lost_is_found_at_once(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            queue.poll_seconds = 3600.0
            await queue.enqueue(job("a"))
            waiting = asyncio.create_task(queue.wait_outcome("a", 3600.0))
            await waited_for(queue, "a")
            with redis.Redis.from_url(server.url) as client:
                await subscribed(client)
                prefix = "{counterhint}"
                client.hset(f"{prefix}:job:a", "state", "cancelled")  # and no announcement
                client.client_kill_filter(_type="pubsub")
            outcome = await asyncio.wait_for(waiting, 120.0)
            assert outcome is not None
            assert outcome.state is JobState.CANCELLED

    asyncio.run(run())


def test_announcements_are_heard_again_after_a_crash(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            server.kill()
            await asyncio.sleep(0.1)
            server.start()
            await queue.enqueue(job("first"))
            with redis.Redis.from_url(server.url) as client:
                await subscribed(client)
            queue.poll_seconds = 3600.0
            first = await queue.claim("worker")
            waiting = asyncio.create_task(queue.wait_outcome("first", 3600.0))
            await waited_for(queue, "first")
            assert first is not None
            await queue.complete(first, b"response")
            outcome = await asyncio.wait_for(waiting, 120.0)
            assert outcome is not None
            assert outcome.state is JobState.DONE

    asyncio.run(run())


def test_without_redis_calls_say_so_and_waiting_goes_on(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            await queue.enqueue(job("a"))
            server.kill()
            with pytest.raises(Unavailable) as refusal:
                await queue.enqueue(job("b"))
            assert (refusal.value.reason, refusal.value.retry_after) == ("QUEUE_UNREACHABLE", 0.1)
            with pytest.raises(Unavailable):
                await queue.claim("worker")
            assert await queue.wait_outcome("a", timeout=0.3) is None

    asyncio.run(run())


def test_a_redis_that_is_not_there_is_noticed_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        async with RedisQueue(f"unix://{tmp_path}/none.sock"):
            pass

    with pytest.raises(Unavailable):
        asyncio.run(run())


def test_a_full_redis_refuses_jobs_but_takes_results(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            await queue.enqueue(job("a"))
            with redis.Redis.from_url(server.url) as client:
                client.config_set("maxmemory", 1)
                with pytest.raises(Overloaded) as refusal:
                    await queue.enqueue(job("b"))
                assert refusal.value.reason == "QUEUE_TAKES_NO_WRITES"
                claim = await queue.claim("worker")
                assert claim is not None
                assert await queue.complete(claim, b"response")
                client.config_set("maxmemory", 0)
            assert await queue.enqueue(job("b")) is JobState.QUEUED
            assert await queue.enqueue(job("a")) is JobState.DONE

    asyncio.run(run())


def test_a_redis_at_its_memory_s_end_refuses_jobs_and_ends_those_that_it_has(
    server: LocalRedis,
) -> None:
    payload = os.urandom(20_000)

    async def run() -> None:
        async with RedisQueue(
            server.url, QueueSettings(retry_after=0.1, lease_seconds=0.0)
        ) as queue:
            await queue.probe()
            with redis.Redis.from_url(server.url) as client:
                client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
                names = [f"{number}" for number in range(200)]
                answers = await asyncio.gather(
                    *(queue.enqueue(QueuedJob(name, "run", 10, payload)) for name in names),
                    return_exceptions=True,
                )
                refusals = [answer for answer in answers if answer is not JobState.QUEUED]
                accepted = [
                    name
                    for name, answer in zip(names, answers, strict=True)
                    if answer is JobState.QUEUED
                ]
                assert 10 < len(accepted) < 150
                for refusal in refusals:
                    assert isinstance(refusal, Overloaded)
                    assert refusal.reason == "QUEUE_TAKES_NO_WRITES"
                    assert refusal.retry_after > 0
                (stats,) = await queue.stats()
                assert (stats.queued, stats.bytes) == (len(accepted), 20_000 * len(accepted))
                client.config_set("maxmemory", 1)  # whatever was freed since

                with pytest.raises(Overloaded):
                    await queue.probe()
                # Whoever sends a job again that was accepted joins it.
                again = QueuedJob("0", "run", 10, payload, timeout=2 * 86_400.0)
                assert await queue.enqueue(again) is JobState.QUEUED
                first, second, third, fourth = [await claim(queue) for _ in range(4)]
                assert await queue.heartbeat([first]) == set()
                assert await queue.complete(first, payload)
                assert await queue.release(second)
                assert await queue.fail(third, CRASH, retryable=True)
                assert await queue.reap() == Reaped(redelivered=1)
                assert not await queue.complete(fourth, payload)
                assert await queue.cancel(accepted[-1]) is JobState.CANCELLED
                await queue.pause("run")
                assert await queue.resume("run")
                while (claimed := await queue.claim("worker")) is not None:
                    assert await queue.complete(claimed, payload)
                (stats,) = await queue.stats()
                assert (stats.queued, stats.claimed, stats.bytes) == (0, 0, 0)
                assert (stats.done, stats.cancelled) == (len(accepted) - 1, 1)

                client.config_set("maxmemory", 0)
                await queue.probe()
                assert await queue.enqueue(job("later")) is JobState.QUEUED

    asyncio.run(run())


def test_only_one_worker_at_a_time_has_jobs_that_failed_before(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:

            async def take(worker: str) -> Claim | None:
                return await queue.claim(worker)

            for name in ("poison", "innocent", "released", "new"):
                await queue.enqueue(job(name))
            for lost in [await claim(queue) for _ in range(2)]:
                await queue.fail(lost, CRASH, retryable=True)
            await queue.release(await claim_named(queue, "released"))

            held = await take("one")
            assert held is not None
            assert held.id == "poison"
            other = [await take("two") for _ in range(3)]
            assert [claimed and claimed.id for claimed in other] == ["released", "new", None]
            second = await take("one")
            assert second is not None
            assert second.id == "innocent"
            await queue.fail(held, CRASH, retryable=True)
            assert await take("two") is None
            assert await queue.complete(second, b"")
            again = await take("two")
            assert again is not None
            assert (again.id, again.failures) == ("poison", 2)
            assert await queue.cancel("poison") is JobState.CANCELLED
            with redis.Redis.from_url(server.url) as client:
                assert not client.exists("{counterhint}:suspects")

    asyncio.run(run())


def test_processes_with_other_settings_are_refused_while_one_is_there(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS):
            async with RedisQueue(server.url, SETTINGS):
                pass
            other = RedisQueue(server.url, QueueSettings(retry_after=0.1, max_attempts=7))
            with pytest.raises(InputError, match="max_attempts is 3 there and 7 here"):
                await other.__aenter__()
            await other.__aexit__(None, None, None)
        async with RedisQueue(server.url, QueueSettings(max_attempts=7)):
            pass

    asyncio.run(run())


def test_a_killed_process_s_settings_bind_nobody_for_ever(
    server: LocalRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def present(seconds: float) -> None:
        monkeypatch.setattr("services.queue.redis_streams.PRESENT_SECONDS", seconds)

    monkeypatch.setattr("services.queue.redis_streams.RENEWALS", 1000)

    async def run() -> None:
        present(0.1)
        killed = await RedisQueue(server.url, SETTINGS).__aenter__()
        for task in killed._tasks:
            task.cancel()
        await asyncio.sleep(0.2)
        present(60.0)
        async with RedisQueue(server.url, QueueSettings(max_attempts=7)) as queue:
            with redis.Redis.from_url(server.url) as client:

                def until_when() -> float | None:
                    return client.zscore("{counterhint}:processes", queue._process)

                first = until_when()
                async with asyncio.timeout(120.0):  # as long as it is there, it says so
                    while until_when() == first:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            with pytest.raises(InputError):
                await RedisQueue(server.url, SETTINGS).__aenter__()
            await queue._redis.aclose()

    asyncio.run(run())


def test_who_looks_on_uses_the_settings_of_the_others(server: LocalRedis) -> None:
    async def run() -> None:
        settings = QueueSettings(max_attempts=7, dead_seconds=5.0)
        async with RedisQueue(server.url) as alone:
            assert alone.settings == QueueSettings()
        async with RedisQueue(server.url, settings), RedisQueue(server.url) as onlooker:
            assert onlooker.settings == settings
        async with RedisQueue(server.url, SETTINGS):  # the onlooker left no settings behind
            pass

    asyncio.run(run())


def test_a_caller_that_goes_away_and_a_forgotten_script_disturb_no_other_call(
    server: LocalRedis,
) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            names = [f"job {number:03}" for number in range(200)]
            calls = [asyncio.create_task(queue.enqueue(job(name))) for name in names]
            await asyncio.sleep(0)
            calls[7].cancel()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(answers[7], asyncio.CancelledError)
            assert answers[:7] + answers[8:] == [JobState.QUEUED] * 199
            await queue._redis.script_flush()
            claims = await asyncio.gather(*(queue.claim("worker") for _ in names))
            assert [claimed and claimed.id for claimed in claims] == names

    asyncio.run(run())


def test_calls_that_do_not_fit_one_batch_keep_their_order(
    server: LocalRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.queue.redis_calls.AT_ONCE", 5)
    monkeypatch.setattr("services.queue.redis_calls.BYTES_AT_ONCE", 1000)
    jobs = [
        QueuedJob(f"{number}", "run", 10, bytes(2000 if number % 4 == 3 else 300))
        for number in range(60)
    ]

    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            await asyncio.gather(*(queue.enqueue(submitted) for submitted in jobs))
            claims = await asyncio.gather(*(claim(queue) for _ in jobs))
            assert [(claimed.id, claimed.payload) for claimed in claims] == [
                (submitted.id, submitted.payload) for submitted in jobs
            ]

    asyncio.run(run())


def test_a_run_that_is_through_leaves_no_stream_and_nothing_without_an_end(
    server: LocalRedis,
) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            for number in range(5):
                await queue.enqueue(job(f"{number}"))
                claim = await queue.claim("worker")
                assert claim is not None
                await queue.complete(claim, b"response")

    asyncio.run(run())
    with redis.Redis.from_url(server.url) as client:
        lasting = {key for key in client.scan_iter() if client.ttl(key) == -1}
    assert lasting == {b"{counterhint}:runs", b"{counterhint}:total", b"{counterhint}:settings"}


def test_purging_dead_jobs_brings_no_forgotten_run_back(server: LocalRedis) -> None:
    async def run() -> None:
        # The entries outlive what they name: they are trimmed by settings with a longer time.
        brief = QueueSettings(max_attempts=1, dead_seconds=0.1)
        async with RedisQueue(server.url, brief) as queue:
            await queue.enqueue(job("a"))
            claim = await queue.claim("worker")
            assert claim is not None
            await queue.fail(claim, Unavailable("lost", reason="TEACHER_LOST"), retryable=True)
        await asyncio.sleep(0.2)
        async with RedisQueue(server.url, SETTINGS) as queue:
            assert await queue.purge("run") == 0
            assert await queue.stats() == []

    asyncio.run(run())
    with redis.Redis.from_url(server.url) as client:
        assert client.xlen("{counterhint}:dead") == 0
        assert not client.exists("{counterhint}:run:run")


def test_stats_forget_a_run_without_counts_but_never_one_that_is_there(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            with redis.Redis.from_url(server.url) as client:
                for round in range(30):
                    # The run's counts have expired; it comes back while others look.
                    client.delete("{counterhint}:run:run")
                    client.sadd("{counterhint}:runs", "run")
                    *_, seen = await asyncio.gather(
                        queue.stats(), queue.enqueue(job(f"{round}")), queue.stats()
                    )
                    assert [run.run_id for run in seen] == ["run"]
                    assert client.smembers("{counterhint}:runs") == {b"run"}
                    client.flushall()
                client.sadd("{counterhint}:runs", "gone")
                assert await queue.stats() == []
                assert client.smembers("{counterhint}:runs") == set()

    asyncio.run(run())


def test_stats_read_the_counts_that_they_know_and_miss_no_other(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            with redis.Redis.from_url(server.url) as client:
                client.sadd("{counterhint}:runs", "partial", "gone")
                client.hset("{counterhint}:run:partial", mapping={"done": 3, "unknown": 1})
            assert await queue.stats() == [RunStats("partial", done=3)]

    asyncio.run(run())


def test_the_list_of_dead_jobs_does_not_grow_for_ever(server: LocalRedis) -> None:
    async def run() -> None:
        settings = QueueSettings(max_attempts=1, dead_seconds=0.1)
        async with RedisQueue(server.url, settings) as queue:
            await queue.enqueue(job("a"))
            claim = await queue.claim("worker")
            assert claim is not None
            await queue.fail(claim, Unavailable("lost", reason="TEACHER_LOST"), retryable=True)
            await asyncio.sleep(0.2)
            assert await queue.dead() == []

    asyncio.run(run())
    with redis.Redis.from_url(server.url) as client:
        assert client.xlen("{counterhint}:dead") == 0


def test_a_job_of_a_release_without_traces_is_claimed(server: LocalRedis) -> None:
    async def run() -> None:
        async with RedisQueue(server.url, SETTINGS) as queue:
            await queue.enqueue(job("a"))
            with redis.Redis.from_url(server.url) as client:
                client.hdel("{counterhint}:job:a", "request_id", "traceparent", "note")
            assert (await claim(queue)).trace == TraceContext()
            assert await queue.note("a") == b""

    asyncio.run(run())
