"""Calls to Redis: those that are made at the same time travel together."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import redis.asyncio as redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from counterhint.errors import InputError, Overloaded, Unavailable

REFUSING_WRITES = ("OOM", "MISCONF")
"""What a script's error names while Redis's memory or disk is full."""
AT_ONCE = 64
"""Calls that travel together, at most."""
BYTES_AT_ONCE = 16 << 20
"""Payload with which a batch is full, so that none takes long; a larger call travels alone."""

Word = str | int | float | bytes


class RedisCalls:
    """Commands and Lua scripts, sent in the order of the calls.

    While one batch is under way, later calls gather to the next, so that many coroutines share
    round trips, system calls and one connection.

    Args:
        client: connections to Redis.
        retry_after: what callers are told to wait while Redis is away or full, in seconds.
    """

    def __init__(self, client: redis.Redis, retry_after: float) -> None:
        self._client = client
        self._retry_after = retry_after
        self._scripts: dict[str, str] = {}
        self._digests: dict[str, str] = {}
        self._waiting: list[tuple[tuple[Word, ...], asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None

    def use_scripts(self, scripts: Mapping[str, str]) -> None:
        """Names the scripts that `run` knows; Redis gets them when it first misses one."""
        self._scripts = dict(scripts)
        self._digests = {
            name: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
            for name, script in scripts.items()
        }

    async def run(self, script: str, key: str, *arguments: Word) -> Any:
        """The answer of a script; raises what `call` raises."""
        return await self.call("EVALSHA", self._digests[script], 1, key, *arguments)

    async def call(self, *command: Word) -> Any:
        """The answer of a command.

        Raises:
            Unavailable: Redis cannot be reached.
            Overloaded: Redis takes no writes: its memory or its disk is full.
            InputError: the user that the URL names may not do what the queue needs.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, answer))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(), name="queue-calls")
        try:
            return await answer
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise Unavailable(
                f"the queue's Redis cannot be reached: {error}",
                reason="QUEUE_UNREACHABLE",
                retry_after=self._retry_after,
            ) from error
        except NoPermissionError as error:
            raise InputError(
                f"--redis: {error}; give its user the rules in deploy/redis/acl-rules"
            ) from error
        except ResponseError as error:
            full = isinstance(error, OutOfMemoryError)
            if not full and not any(word in str(error) for word in REFUSING_WRITES):
                raise
            raise Overloaded(
                f"the queue's Redis takes no writes: {error}",
                reason="QUEUE_TAKES_NO_WRITES",
                retry_after=self._retry_after,
            ) from error

    async def _send(self) -> None:
        while self._waiting:
            size = self._batch_size()
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            answers: Sequence[Any]
            try:
                answers = await self._exchange([command for command, _ in batch])
            except Exception as error:  # whatever it is, it belongs to those who wait
                answers = [error] * len(batch)
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if waiting.done():  # its caller has gone
                    continue
                if isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)

    def _batch_size(self) -> int:
        """How many of the waiting calls travel now."""
        payload = 0
        for number, (command, _) in enumerate(self._waiting[:AT_ONCE]):
            payload += sum(len(word) for word in command if isinstance(word, bytes))
            if number > 0 and payload > BYTES_AT_ONCE:
                return number
        return AT_ONCE

    async def _exchange(self, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
        """The answers to commands; those that Redis refused are errors."""
        answers = await self._pipeline(commands)
        unknown = [
            number for number, answer in enumerate(answers) if isinstance(answer, NoScriptError)
        ]
        if unknown:  # Redis is new, or was started again
            await self._pipeline([("SCRIPT", "LOAD", text) for text in self._scripts.values()])
            again = await self._pipeline([commands[number] for number in unknown])
            for number, answer in zip(unknown, again, strict=True):
                answers[number] = answer
        return answers

    async def _pipeline(self, commands: Sequence[tuple[Word, ...]]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)
