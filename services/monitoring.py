"""What `services run` tells of itself: what the queue knows is read every few seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import REGISTRY

from services.dispatcher import Dispatcher
from services.metrics import QueueFigures
from services.queue.base import JobQueue
from services.queue.errors import NOT_NOW

LOOK_SECONDS = 2.0
"""How often the queue is looked at."""
STILL_SECONDS = 60.0
"""After so long without a turn, the event loop hangs: every wait for the queue ends sooner."""


class Watch:
    """What was last seen of the queue and of this process, and whether that is well."""

    def __init__(self) -> None:
        self.figures = QueueFigures()
        self.last_turn = time.monotonic()
        """When the event loop last had a turn."""

    def trouble(self) -> str:
        """Why the process is not worth keeping; empty while it is."""
        still = time.monotonic() - self.last_turn
        return f"the event loop stands still for {still:.0f} s" if still > STILL_SECONDS else ""

    def unready(self) -> str:
        """Why it does not do its work; empty while it does."""
        return "" if self.figures.ready else "no teacher, or no queue"


@asynccontextmanager
async def watched(queue: JobQueue, dispatcher: Dispatcher | None) -> AsyncIterator[Watch]:
    """Looks at the queue while the block runs; its figures are among this process's metrics.

    Args:
        queue: what the figures are of.
        dispatcher: this process's, if it has one.
    """
    watch = Watch()
    figures = watch.figures

    async def turn() -> None:
        while True:
            watch.last_turn = time.monotonic()
            if dispatcher is not None:
                figures.teachers = len(dispatcher.connected)
                figures.in_flight = dispatcher.in_flight
            await asyncio.sleep(1.0)

    tasks = [asyncio.create_task(turn()), asyncio.create_task(_look(queue, figures))]
    REGISTRY.register(figures)
    try:
        yield watch
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
