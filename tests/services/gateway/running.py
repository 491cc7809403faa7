"""A gateway on a real port, and its client, in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

from services.gateway.server import serve_gateway
from services.gateway.tokenizer import Tokenizer
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from tests.services.dispatching import dispatching
from tests.services.scripted_teacher import ScriptedTeacher

Use = Callable[[httpx.AsyncClient], Awaitable[None]]

EXAMPLE: dict[str, Any] = {
    "problem": "What is 2+3?",
    "correct_hint": "2+3=5",
    "correct_answer": "5",
    "wrong_hints": [{"hint": "2+3=6", "answer": "6"}],
    "responses": ["2+3 = 5"],
}
RAW: dict[str, Any] = {"contexts": [[1, 2], [5]], "responses": [[3, 4]], "pairs": [[0, 0], [1, 0]]}


@asynccontextmanager
async def gateway_client(queue: JobQueue, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway on a queue; `options` are those of `serve_gateway`."""
    listen = options.pop("listen", "127.0.0.1:0")
    async with (
        serve_gateway(queue, listen, **options) as url,
        httpx.AsyncClient(base_url=url, timeout=240.0) as client,
    ):
        yield client


def with_gateway(use: Use, teachers: Sequence[str] = (), **options: Any) -> None:
    """Calls a gateway whose jobs a dispatcher takes to teachers; without any, they stay queued."""

    async def run() -> None:
        async with MemoryQueue() as queue, gateway_client(queue, **options) as client:
            if not teachers:
                await queue.publish_teacher(scripted(options.get("tokenizer")).info, 600.0)
                await use(client)
                return
            async with dispatching(queue, teachers):
                await teacher_known(queue)
                await use(client)

    asyncio.run(run())


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Waits for a condition that has no event."""
    async with asyncio.timeout(240.0):  # keeps a broken test from hanging
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def teacher_known(queue: JobQueue) -> None:
    """Waits until a teacher is connected."""
    await until(queue.teacher)


def scripted(tokenizer: Tokenizer | None) -> ScriptedTeacher:
    """A teacher without a model that has the gateway's tokenizer."""
    teacher = ScriptedTeacher()
    if tokenizer is not None:
        teacher.info = replace(
            teacher.info, tokenizer_fingerprint=tokenizer.fingerprint, vocab_size=263
        )
    return teacher
