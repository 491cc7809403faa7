"""The queue on Redis (6.2 or newer): intakes and dispatchers share it, and it outlives them.

What must happen together is one Lua script in `scripts/`; `scripts/prelude.lua` describes the keys.
Durability is Redis's: with an append-only file flushed every second, a crash of Redis may forget
the last second of accepted jobs, and clients submit those again by the same id.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from types import TracebackType
from typing import Any, Self

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from typing_extensions import override

from counterhint.errors import Overloaded, Unavailable
from counterhint.jobs import TeacherInfo
from counterhint.messages import teacher_from_message, teacher_to_message
from counterhint.v1 import scoring_pb2
from services.queue.base import JobQueue
from services.queue.errors import job_conflict, job_not_found, outcome_of, queue_full
from services.queue.records import (
    Claim,
    JobRecord,
    JobState,
    Outcome,
    QueuedJob,
    QueueSettings,
    Reaped,
    RunStats,
)

log = logging.getLogger(__name__)

SCRIPTS = (
    "enqueue",
    "claim",
    "heartbeat",
    "finish",
    "give_back",
    "reap",
    "cancel",
    "dead",
    "retry",
    "purge",
)
COUNTS = tuple(field.name for field in fields(RunStats) if field.name != "run_id")
"""What a run's hash counts for `stats`."""
REFUSING_WRITES = ("OOM", "MISCONF")
"""What Redis answers while its memory or its disk is full."""
MAX_CONNECTIONS = 64
"""Connections of one process; calls beyond wait for one."""
LISTEN_SECONDS = 1.0
"""How long one wait for an announcement lasts: the longest that closing can take."""
RECONNECT_SECONDS = 0.2
"""Pause before the subscription to announcements is opened again."""


class RedisQueue(JobQueue):
    """A `JobQueue` in Redis.

    Args:
        url: `redis://host:port/0`, `rediss://…` or `unix:///path`.
        settings: bounds and times.
        prefix: what every key begins with; the braces keep all keys in one slot of a cluster.
    """

    def __init__(
        self,
        url: str,
        settings: QueueSettings | None = None,
        *,
        prefix: str = "{counterhint}",
    ) -> None:
        super().__init__(settings or QueueSettings())
        self._prefix = prefix
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            socket_connect_timeout=5.0,
            socket_timeout=10.0,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=3),
        )
        self._redis = redis.Redis.from_pool(pool)
        scripts = resources.files("services.queue") / "scripts"
        prelude = (scripts / "prelude.lua").read_text(encoding="utf-8")
        self._scripts = {
            name: self._redis.register_script(
                prelude + (scripts / f"{name}.lua").read_text(encoding="utf-8")
            )
            for name in SCRIPTS
        }
        self._script_settings = json.dumps(_script_settings(self.settings))
        self._listener: asyncio.Task[None] | None = None
        self._closing = False

    @override
    async def __aenter__(self) -> Self:
        await self.check()
        self._listener = asyncio.create_task(self._listen(), name="queue-announcements")
        return self

    @override
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True  # redis-py swallows a cancellation that meets it while it connects
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        await self._redis.aclose()

    async def check(self) -> None:
        """Returns when Redis answers.

        Raises:
            Unavailable: it does not.
        """
        await self._reach(self._redis.ping())

    async def _listen(self) -> None:
        """Passes announcements on; after each subscription everybody looks for what was missed."""
        while not self._closing:
            try:
                async with self._redis.pubsub() as subscription:
                    await subscription.subscribe(self._key("announcements"))
                    while not self._closing:
                        message = await subscription.get_message(timeout=LISTEN_SECONDS)
                        if message is None:
                            continue
                        if message["type"] == "message":
                            self._announcements.announce(message["data"].decode())
                        else:
                            self._announcements.announce_all()
            except RedisError as error:
                log.info("announcements interrupted: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    async def _reach(self, call: Any) -> Any:
        """The answer of a Redis call.

        Raises:
            Unavailable: Redis cannot be reached.
            Overloaded: Redis takes no writes: its memory or its disk is full.
        """
        try:
            return await call
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise Unavailable(
                f"the queue's Redis cannot be reached: {error}",
                reason="QUEUE_UNREACHABLE",
                retry_after=self.settings.retry_after,
            ) from error
        except ResponseError as error:
            if not any(word in str(error) for word in REFUSING_WRITES):
                raise
            raise Overloaded(
                f"the queue's Redis takes no writes: {error}",
                reason="QUEUE_TAKES_NO_WRITES",
                retry_after=self.settings.retry_after,
            ) from error

    async def _run(self, script: str, *arguments: str | int | bytes) -> Any:
        call = self._scripts[script](keys=[self._prefix], args=[self._script_settings, *arguments])
        return await self._reach(call)

    @override
    async def enqueue(self, job: QueuedJob) -> JobState:
        timeout = self.settings.job_seconds if job.timeout is None else job.timeout
        answer, *facts = await self._run(
            "enqueue",
            job.id,
            job.run_id,
            job.digest,
            job.cost,
            job.priority,
            _milliseconds(timeout),
            job.payload,
        )
        if answer == b"conflict":
            raise job_conflict(job.id)
        if answer == b"full":
            raise queue_full(facts[0].decode(), int(facts[1]), self.settings.retry_after)
        return JobState(answer.decode())

    @override
    async def outcome(self, job_id: str) -> Outcome | None:
        state, body, reason, wait = await self._fields(job_id, "state", "body", "reason", "wait")
        if not JobState(state.decode()).finished:
            return None
        return outcome_of(
            job_id,
            JobState(state.decode()),
            body or b"",
            (reason or b"").decode(),
            int(wait or 0) / 1000,
        )

    async def _fields(self, job_id: str, *names: str) -> list[Any]:
        """Fields of a job, the first of which every job has."""
        values: list[Any] = await self._reach(self._redis.hmget(self._key("job", job_id), names))
        if values[0] is None:
            raise job_not_found(job_id)
        return values

    @override
    async def cancel(self, job_id: str) -> JobState:
        state = await self._run("cancel", job_id)
        if state is None:
            raise job_not_found(job_id)
        return JobState(state.decode())

    @override
    async def _claim_now(self, worker: str) -> Claim | None:
        answer = await self._run("claim", worker)
        if answer is None:
            return None
        job_id, run_id, cost, attempt, failures, wait, left, payload = answer
        return Claim(
            id=job_id.decode(),
            run_id=run_id.decode(),
            cost=cost,
            worker=worker,
            attempt=attempt,
            failures=failures,
            payload=payload,
            wait_seconds=wait / 1000,
            timeout=left / 1000,
        )

    @override
    async def heartbeat(self, claims: Sequence[Claim]) -> set[str]:
        if not claims:
            return set()
        held = [part for claim in claims for part in (claim.id, claim.attempt)]
        return {lost.decode() for lost in await self._run("heartbeat", claims[0].worker, *held)}

    @override
    async def complete(self, claim: Claim, response: bytes) -> bool:
        return await self._finish(claim, JobState.DONE, "", response)

    @override
    async def _fail_for_good(self, claim: Claim, reason: str, failure: bytes) -> bool:
        return await self._finish(claim, JobState.FAILED, reason, failure)

    async def _finish(self, claim: Claim, state: JobState, reason: str, body: bytes) -> bool:
        return bool(
            await self._run(
                "finish", claim.id, claim.worker, claim.attempt, state.value, reason, body
            )
        )

    @override
    async def _give_back(self, claim: Claim, *, counted: bool, reason: str) -> bool:
        return bool(
            await self._run(
                "give_back", claim.id, claim.worker, claim.attempt, int(counted), reason
            )
        )

    @override
    async def reap(self) -> Reaped:
        return Reaped(*await self._run("reap"))

    @override
    async def publish_teacher(self, teacher: TeacherInfo, seconds: float) -> None:
        message = teacher_to_message(teacher).SerializeToString()
        await self._reach(self._redis.set(self._key("teacher"), message, px=_milliseconds(seconds)))

    @override
    async def teacher(self) -> TeacherInfo | None:
        message = await self._reach(self._redis.get(self._key("teacher")))
        if message is None:
            return None
        return teacher_from_message(scoring_pb2.GetTeacherResponse.FromString(message))

    @override
    async def stats(self) -> list[RunStats]:
        runs = sorted(
            run.decode() for run in await self._reach(self._redis.smembers(self._key("runs")))
        )
        stats = []
        for run_id in runs:
            values = await self._reach(self._redis.hmget(self._key("run", run_id), COUNTS))
            counts = {
                name: int(value)
                for name, value in zip(COUNTS, values, strict=True)
                if value is not None
            }
            if not counts:  # idle for so long that it was forgotten
                await self._reach(self._redis.srem(self._key("runs"), run_id))
                continue
            stats.append(RunStats(run_id, **counts))
        return stats

    @override
    async def job(self, job_id: str) -> JobRecord:
        state, run_id, reason, *numbers = await self._fields(
            job_id, "state", "run", "reason", "cost", "priority", "attempt", "failures"
        )
        cost, priority, attempt, failures = map(int, numbers)
        return JobRecord(
            id=job_id,
            run_id=run_id.decode(),
            state=JobState(state.decode()),
            cost=cost,
            priority=priority,
            attempt=attempt,
            failures=failures,
            reason=(reason or b"").decode(),
        )

    @override
    async def dead(self) -> list[JobRecord]:
        return [await self.job(job_id.decode()) for job_id in await self._run("dead")]

    @override
    async def retry(self, job_id: str) -> bool:
        answer = await self._run("retry", job_id)
        if answer is None:
            raise job_not_found(job_id)
        return bool(answer)

    @override
    async def purge(self, run_id: str) -> int:
        return int(await self._run("purge", run_id))


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def _script_settings(settings: QueueSettings) -> dict[str, int]:
    return {
        "max_jobs": settings.max_jobs,
        "max_bytes": settings.max_bytes,
        "max_run_jobs": settings.max_run_jobs,
        "max_run_bytes": settings.max_run_bytes,
        "max_attempts": settings.max_attempts,
        "lease_ms": _milliseconds(settings.lease_seconds),
        "job_ms": _milliseconds(settings.job_seconds),
        "result_ms": _milliseconds(settings.result_seconds),
        "dead_ms": _milliseconds(settings.dead_seconds),
    }
