"""A gateway on a port of its own, in a thread: the browser's driver has the test's thread."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from services.gateway.server import serve_gateway
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from tests.services.dispatching import dispatching
from tests.services.gateway.running import teacher_known

Prepare = Callable[[JobQueue], Awaitable[None]]


@contextmanager
def served_gateway(
    teachers: Sequence[str] = (), *, prepare: Prepare | None = None, **options: Any
) -> Iterator[str]:
    """Serves a gateway with a queue in memory; gives its URL.

    Args:
        teachers: addresses to which a dispatcher takes the jobs; none leaves them queued.
        prepare: is given the queue before anybody calls.
        options: of `serve_gateway`.
    """
    ready, urls = threading.Event(), []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with (
            MemoryQueue() as queue,
            serve_gateway(queue, "127.0.0.1:0", **options) as url,
        ):
            urls.append(url)
            if prepare is not None:
                await prepare(queue)
            async with dispatching(queue, teachers) if teachers else nullcontext():
                if teachers:
                    await teacher_known(queue)
                ready.set()
                await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    try:
        assert ready.wait(240), "the gateway did not start"
        yield urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(240)
        loop.close()
