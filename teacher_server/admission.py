"""Admission by tokens: how much work may wait or run, and in which order it comes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from counterhint.errors import Overloaded

FIRST_RATE = 2_000.0
"""Tokens a second that are assumed until a job was measured."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 60.0
"""Bounds of the retry delay, in seconds."""


class Admission:
    """Lets jobs through first come, first served, and refuses what would not fit.

    Args:
        max_tokens: most tokens that wait or run. A job that comes alone is always taken.
        concurrent_jobs: how many run at once.
    """

    def __init__(self, max_tokens: int, concurrent_jobs: int) -> None:
        self._max_tokens = max_tokens
        self._slots = asyncio.Semaphore(concurrent_jobs)
        self._rate = FIRST_RATE
        self.tokens = 0
        """Tokens that wait or run."""

    @asynccontextmanager
    async def admit(self, tokens: int) -> AsyncIterator[float]:
        """Waits for the job's turn and holds it; gives the seconds that it waited.

        A task that is cancelled while it waits gives its tokens back at once.

        Raises:
            Overloaded: the bound is reached; `retry_after` is what the backlog takes at the speed
                of late.
        """
        if self.tokens and self.tokens + tokens > self._max_tokens:
            raise Overloaded(
                f"{self.tokens} tokens wait or run, and {tokens} more would exceed the bound of "
                f"{self._max_tokens}",
                reason="TEACHER_BUSY",
                details={"tokens": self.tokens, "max_queued_tokens": self._max_tokens},
                retry_after=min(max(self.tokens / self._rate, SHORTEST_PAUSE), LONGEST_PAUSE),
            )
        arrived = time.monotonic()
        self.tokens += tokens
        try:
            async with self._slots:
                yield time.monotonic() - arrived
        finally:
            self.tokens -= tokens

    def observe(self, tokens: int, seconds: float) -> None:
        """Tells how long the engine took for a job, to know its speed."""
        if seconds > 0:
            self._rate += 0.2 * (tokens / seconds - self._rate)
