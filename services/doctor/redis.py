"""The queue's Redis: release, settings, memory, clock."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from counterhint.errors import InputError
from services.doctor.finding import Finding
from services.redis_url import open_redis

OLDEST = (6, 2)
"""The oldest release that the queue's scripts run on."""
LARGEST_CLOCK_DIFFERENCE = 5.0
"""Seconds from which clocks are worth a word: certificates and logs mind, the queue does not."""
SLOW_SECONDS = 0.01
"""A round trip beyond this holds the queue up."""
FULL_SHARE = 0.8
"""Share of Redis's memory from which it is nearly full."""
ROUND_TRIPS = 20


async def look_at_redis(url: str) -> AsyncIterator[Finding]:
    """What the queue's Redis is, and whether its settings lose jobs."""
    try:
        async with await open_redis(url, None) as queue:
            yield Finding("redis", "ok", "answers, and takes the queue's scripts")
            runs = await queue.stats()
            queued, dead = sum(run.queued for run in runs), sum(run.dead for run in runs)
            yield Finding(
                "queue",
                "warning" if dead else "note",
                f"{len(runs)} runs, {queued} jobs queued, {dead} put aside",
                "counterhint queue dead says why; counterhint queue retry puts one back"
                if dead
                else "",
            )
    except InputError as error:
        problem, _, remedy = str(error).rpartition("; ")
        yield Finding("redis", "problem", problem, remedy)
        return
    async with Redis.from_url(url) as redis:
        for look in (_release, _round_trip, _clock, _settings, _memory):
            try:
                yield await look(redis)
            except NoPermissionError:
                yield Finding(
                    f"redis {look.__name__.strip('_').replace('_', ' ')}",
                    "note",
                    "this user may not ask for it",
                    "ask as an administrator: --redis redis://default:PASSWORD@host:port/0",
                )
            except RedisError as error:
                yield Finding("redis", "problem", f"it stopped answering: {error}", "see its log")
                return


async def _release(redis: "Redis") -> Finding:
    facts: Mapping[str, Any] = await redis.info("server")
    release = str(facts["redis_version"])
    if tuple(map(int, release.split(".")[:2])) < OLDEST:
        return Finding("redis release", "problem", release, "use Redis 6.2 or newer, or Valkey")
    return Finding("redis release", "ok", release)


async def _round_trip(redis: "Redis") -> Finding:
    await redis.ping()
    start = time.perf_counter()
    for _ in range(ROUND_TRIPS):
        await redis.ping()
    seconds = (time.perf_counter() - start) / ROUND_TRIPS
    found = f"{1000 * seconds:.2f} ms a round trip"
    if seconds > SLOW_SECONDS:
        return Finding("redis round trip", "warning", found, "put the services beside it")
    return Finding("redis round trip", "ok", found)


async def _clock(redis: "Redis") -> Finding:
    before = time.time()
    seconds, microseconds = await redis.time()
    difference = seconds + microseconds / 1e6 - (before + time.time()) / 2
    found = f"Redis's clock is {difference:+.2f} s from this machine's"
    if abs(difference) > LARGEST_CLOCK_DIFFERENCE:
        return Finding(
            "redis clock",
            "warning",
            found,
            "the queue counts by Redis's clock alone, but certificates and logs go by each "
            "machine's own: run NTP on both",
        )
    return Finding("redis clock", "ok", found)


async def _settings(redis: "Redis") -> Finding:
    settings = {
        name: (await redis.config_get(name)).get(name)
        for name in ("maxmemory-policy", "appendonly", "appendfsync")
    }
    found = ", ".join(f"{name} {value}" for name, value in settings.items())
    if settings["maxmemory-policy"] != "noeviction":
        return Finding(
            "redis settings",
            "problem",
            found,
            "Redis would throw accepted jobs away when it is full: CONFIG SET maxmemory-policy "
            "noeviction",
        )
    if settings["appendonly"] != "yes":
        return Finding(
            "redis settings",
            "warning",
            found,
            "a restart of Redis loses accepted jobs (clients send theirs again): CONFIG SET "
            "appendonly yes",
        )
    return Finding("redis settings", "ok", found)


async def _memory(redis: "Redis") -> Finding:
    facts: Mapping[str, Any] = await redis.info("memory")
    used, most = int(facts["used_memory"]), int(facts.get("maxmemory", 0))
    if most == 0:
        return Finding(
            "redis memory",
            "warning",
            f"{used / 2**20:.0f} MiB used, no bound",
            "without maxmemory a full queue takes the machine's memory: CONFIG SET maxmemory, to "
            "more than --max-bytes of `counterhint services run`",
        )
    found = f"{used / 2**20:.0f} of {most / 2**20:.0f} MiB used"
    if used > FULL_SHARE * most:
        return Finding("redis memory", "warning", found, "raise maxmemory, or lower --max-bytes")
    return Finding("redis memory", "ok", found)
