"""Wakes coroutines that wait for something with a name."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Announcements:
    """Names being announced, and who listens for them, within one event loop."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[asyncio.Event]] = {}

    def announce(self, name: str) -> None:
        """Sets the event of everybody who listens for the name."""
        for event in self._listeners.get(name, ()):
            event.set()

    def announce_all(self) -> None:
        """Sets every event: announcements may have been missed."""
        for name in self._listeners:
            self.announce(name)

    @contextmanager
    def listen(self, name: str) -> Iterator[asyncio.Event]:
        """An event that each announcement of the name sets, until the block is left."""
        event = asyncio.Event()
        listeners = self._listeners.setdefault(name, set())
        listeners.add(event)
        try:
            yield event
        finally:
            listeners.discard(event)
            if not listeners:
                self._listeners.pop(name, None)


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
