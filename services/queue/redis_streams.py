"""The queue on Redis (6.2 or newer): intakes and dispatchers share it, and it outlives them.

What must happen together is one Lua script in `scripts/`; docs/queue.md describes the keys.
Durability is Redis's: with an append-only file flushed every second, a crash of Redis may forget
the last second of accepted jobs, and clients submit those again by the same id.
"""

import asyncio
import json
import logging
import os
import socket
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError
from typing_extensions import override

from counterhint.errors import InputError
from counterhint.jobs import Cost, TeacherInfo
from counterhint.messages import teacher_from_message, teacher_to_message
from counterhint.request_context import TraceContext
from counterhint.v1 import scoring_pb2
from services.queue.base import JobQueue
from services.queue.errors import (
    NOT_NOW,
    job_conflict,
    job_not_found,
    outcome_of,
    priority_too_high,
    queue_full,
    run_not_found,
)
from services.queue.records import (
    Claim,
    JobRecord,
    JobState,
    Outcome,
    QueuedJob,
    QueueSettings,
    Reaped,
    RunPolicy,
    RunRecord,
)
from services.queue.redis_calls import RedisCalls, Word
from services.queue.redis_runs import POLICY, STATS, policy_words, run_record
from services.queue.redis_scripts import load_scripts, milliseconds

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 4
"""Connections of one process: calls share one, announcements take another."""
LISTEN_SECONDS = 1.0
"""How long one wait for an announcement lasts: the longest that closing can take."""
RECONNECT_SECONDS = 0.2
"""Pause before the subscription to announcements is opened again."""
PRESENT_SECONDS = 20.0
"""How long the settings of a process that was killed still bind the others."""
RENEWALS = 4
"""How often a process says within that time that it is there."""


class RedisQueue(JobQueue):
    """A `JobQueue` in Redis.

    Args:
        url: `redis://host:port/0`, `rediss://…` or `unix:///path`.
        settings: bounds and times, the same as every other process's that is there; None to look
            on with theirs.
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
        self._looks_on = settings is None
        self._prefix = prefix
        self._process = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        pool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            socket_connect_timeout=5.0,
            socket_timeout=10.0,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=3),
        )
        self._redis = redis.Redis.from_pool(pool)
        self._calls = RedisCalls(self._redis, self.settings.retry_after)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    @override
    async def __aenter__(self) -> Self:
        if self._looks_on:
            stored = await self._calls.call("GET", self._key("settings"))
            if stored is not None:
                self.settings = QueueSettings(**json.loads(stored))
        self._calls.use_scripts(load_scripts(self.settings))
        if not self._looks_on:
            await self._join()
            self._tasks.append(asyncio.create_task(self._stay(), name="queue-presence"))
        self._tasks.append(asyncio.create_task(self._listen(), name="queue-announcements"))
        return self

    @override
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True  # redis-py swallows a cancellation that meets it while it connects
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._looks_on:
            with suppress(*NOT_NOW):
                await self._calls.call("ZREM", self._key("processes"), self._process)
        await self._redis.aclose()

    async def check(self) -> None:
        """Returns when Redis answers.

        Raises:
            Unavailable: it does not.
        """
        await self._calls.call("PING")

    @override
    async def probe(self) -> None:
        await self._calls.call("SET", self._key("probe"), "", "PX", 1000)

    async def _join(self) -> None:
        """Says that this process is there, with its settings.

        Raises:
            InputError: the processes that are there have others.
        """
        ours = asdict(self.settings)
        answer = await self._run(
            "join", self._process, json.dumps(ours), milliseconds(PRESENT_SECONDS)
        )
        theirs = json.loads(answer)
        if theirs != ours:
            differing = ", ".join(
                f"{name} is {theirs.get(name)} there and {ours.get(name)} here"
                for name in sorted({*ours, *theirs})
                if theirs.get(name) != ours.get(name)
            )
            raise InputError(
                f"other processes on this queue have other settings: {differing}; give all of them "
                f"the same, and stop the others first ({PRESENT_SECONDS:g} s after a crash they "
                "are forgotten)"
            )

    async def _stay(self) -> None:
        while True:
            await asyncio.sleep(PRESENT_SECONDS / RENEWALS)
            try:
                await self._join()
            except NOT_NOW as error:
                log.info("presence not renewed: %s", error)
            except InputError as error:  # this Redis came back empty, to others first
                log.error("%s", error)

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

    async def _run(self, script: str, *arguments: Word) -> Any:
        return await self._calls.run(script, self._prefix, *arguments)

    @override
    async def _enqueue(self, job: QueuedJob, policy: RunPolicy | None) -> JobState:
        timeout = self.settings.job_seconds if job.timeout is None else job.timeout
        answer, *facts = await self._run(
            "enqueue",
            job.id,
            job.run_id,
            job.digest,
            job.cost,
            job.priority,
            milliseconds(timeout),
            job.payload,
            job.note,
            job.trace.request_id,
            job.trace.traceparent,
            *policy_words(policy),
        )
        match answer:
            case b"conflict":
                raise job_conflict(job.id)
            case b"priority":
                raise priority_too_high(job.id, job.priority, int(facts[0]))
            case b"full":
                raise queue_full(facts[0].decode(), int(facts[1]), int(facts[2]) / 1000)
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
        values: list[Any] = await self._calls.call("HMGET", self._key("job", job_id), *names)
        if values[0] is None:
            raise job_not_found(job_id)
        return values

    @override
    async def note(self, job_id: str) -> bytes:
        _, note = await self._fields(job_id, "state", "note")
        return bytes(note or b"")

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
        job_id, run_id, cost, attempt, failures, wait, left, payload, *trace = answer
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
            # A job that was queued by a release without traces has neither word.
            trace=TraceContext(*((word or b"").decode() for word in trace)),
        )

    @override
    async def heartbeat(self, claims: Sequence[Claim]) -> set[str]:
        if not claims:
            return set()
        held = [part for claim in claims for part in (claim.id, claim.attempt)]
        return {lost.decode() for lost in await self._run("heartbeat", claims[0].worker, *held)}

    @override
    async def complete(self, claim: Claim, response: bytes, cost: Cost | None = None) -> bool:
        took = cost or Cost(0, 0)
        return await self._finish(claim, JobState.DONE, "", response, took)

    @override
    async def _fail_for_good(self, claim: Claim, reason: str, failure: bytes) -> bool:
        return await self._finish(claim, JobState.FAILED, reason, failure, Cost(0, 0))

    async def _finish(
        self, claim: Claim, state: JobState, reason: str, body: bytes, cost: Cost
    ) -> bool:
        return bool(
            await self._run(
                "finish",
                *(claim.id, claim.worker, claim.attempt, state.value, reason, body),
                *(cost.tokens_naive, cost.tokens_computed, round(cost.engine_seconds * 1e6)),
                *(cost.pairs_cached, cost.tokens_cached),
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
        await self._calls.call("SET", self._key("teacher"), message, "PX", milliseconds(seconds))

    @override
    async def teacher(self) -> TeacherInfo | None:
        message = await self._calls.call("GET", self._key("teacher"))
        if message is None:
            return None
        return teacher_from_message(scoring_pb2.GetTeacherResponse.FromString(message))

    @override
    async def runs(self) -> list[RunRecord]:
        return sorted(await self._records(""), key=lambda record: record.stats.run_id)

    @override
    async def run(self, run_id: str) -> RunRecord:
        records = await self._records(run_id)
        if not records:
            raise run_not_found(run_id)
        return records[0]

    async def _records(self, run_id: str) -> list[RunRecord]:
        """A run, when it is known; every known one for the empty id."""
        rows = await self._run("stats", run_id, *POLICY, *STATS)
        return [run_record(found.decode(), oldest, values) for found, oldest, values in rows]

    @override
    async def set_policy(self, run_id: str, policy: RunPolicy | None) -> None:
        await self._run("set_policy", run_id, *policy_words(policy))

    @override
    async def pause(self, run_id: str) -> None:
        await self._run("pause", run_id)

    @override
    async def resume(self, run_id: str) -> bool:
        answer = await self._run("resume", run_id)
        if answer is None:
            raise run_not_found(run_id)
        return bool(answer)

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
