"""Metrics and probes of `services run`: what the queue knows is read every few seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import REGISTRY

from counterhint.http_probes import serve_probes
from services.dispatcher import Dispatcher
from services.metrics import QueueFigures
from services.queue.base import JobQueue
from services.queue.errors import NOT_NOW

LOOK_SECONDS = 2.0
"""How often the queue is looked at."""
STILL_SECONDS = 60.0
"""After so long without a turn, the event loop hangs: every wait for the queue ends sooner."""


@asynccontextmanager
async def monitored(
    queue: JobQueue, listen: str, dispatcher: Dispatcher | None
) -> AsyncIterator[str]:
    """Serves `/metrics`, `/health` and `/ready` while the block runs; gives their address.

    Args:
        queue: what the figures are of.
        listen: `host:port`, checked.
        dispatcher: this process's, if it has one.

    Raises:
        InputError: the address cannot be bound.
    """
    figures = QueueFigures()
    last_turn = time.monotonic()

    async def turn() -> None:
        nonlocal last_turn
        while True:
            last_turn = time.monotonic()
            if dispatcher is not None:
                figures.teachers = len(dispatcher.connected)
                figures.in_flight = dispatcher.in_flight
            await asyncio.sleep(1.0)

    def trouble() -> str:
        still = time.monotonic() - last_turn
        return f"the event loop stands still for {still:.0f} s" if still > STILL_SECONDS else ""

    tasks = [asyncio.create_task(turn()), asyncio.create_task(_look(queue, figures))]
    REGISTRY.register(figures)
    try:
        with serve_probes(
            listen, trouble, lambda: "" if figures.ready else "no teacher, or no queue"
        ) as url:
            yield url
    finally:
        REGISTRY.unregister(figures)
        for task in tasks:
            task.cancel()


async def _look(queue: JobQueue, figures: QueueFigures) -> None:
    while True:
        try:
            await queue.probe()
            figures.ready = await queue.teacher() is not None
            figures.runs = await queue.stats()
        except NOT_NOW:
            figures.ready = False
        await asyncio.sleep(LOOK_SECONDS)
