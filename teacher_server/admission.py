"""Admission: how much work may wait, run and hold memory, and in which order it comes."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from counterhint.errors import CounterhintError, Overloaded
from teacher_server.engines.base import Engine

FIRST_RATE = 2_000.0
"""Tokens a second that are assumed until a job was measured."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 60.0
"""Bounds of the retry delay, in seconds."""


class Gate:
    """An amount that is shared first come, first served; more than all of it passes alone.

    Nobody overtakes, so a large job is not starved by small ones behind it.

    Args:
        bound: the amount.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closed: CounterhintError | None = None
        self.taken = 0
        """What those hold that are through."""

    @asynccontextmanager
    async def take(self, amount: int) -> AsyncIterator[None]:
        """Waits for its turn and holds the amount.

        Raises:
            CounterhintError: the gate was closed with it.
        """
        if self._closed is not None:
            raise self._closed
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            let_in = turn.done() and not turn.cancelled() and turn.exception() is None
            self._give_back(amount if let_in else 0)
            raise
        try:
            yield
        finally:
            self._give_back(amount)

    def close(self, error: CounterhintError) -> None:
        """Refuses those who wait or come; those who are through stay."""
        self._closed = error
        for _, turn in self._waiting:
            if not turn.done():
                turn.set_exception(error)
        self._waiting.clear()

    def _give_back(self, amount: int) -> None:
        self.taken -= amount
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            amount, turn = self._waiting[0]
            if not turn.done():  # else it was cancelled
                if self.taken and self.taken + amount > self._bound:
                    return
                self.taken += amount
                turn.set_result(None)
            self._waiting.popleft()


class Admission:
    """Lets jobs to the engine first come, first served, and refuses what would not fit.

    Args:
        engine: how much it takes at once.
        max_tokens: most tokens that wait or run. A job that comes alone is always taken.
        max_held_bytes: most bytes of scores that are being computed or were not sent yet; jobs
            wait while there is no room for theirs.
    """

    def __init__(self, engine: Engine, max_tokens: int, max_held_bytes: int) -> None:
        self._max_tokens = max_tokens
        self._by_tokens = engine.concurrent_tokens is not None
        self._turns = Gate(engine.concurrent_tokens or engine.concurrent_jobs)
        self._memory = Gate(max_held_bytes)
        self._rate = FIRST_RATE
        self._running_jobs = 0
        self.waiting_tokens = 0
        """Tokens of jobs that wait for their turn."""
        self.running_tokens = 0
        """Tokens of jobs at the engine."""

    @property
    def tokens(self) -> int:
        """Tokens that wait or run."""
        return self.waiting_tokens + self.running_tokens

    @property
    def held_bytes(self) -> int:
        """Bytes of scores that are held or that jobs were let in for."""
        return self._memory.taken

    @asynccontextmanager
    async def admit(
        self, tokens: int, reply_bytes: int, held: AsyncExitStack
    ) -> AsyncIterator[float]:
        """Waits for the job's turn and holds it; gives the seconds that it waited.

        A task that is cancelled while it waits gives its tokens back at once.

        Args:
            tokens: of the job.
            reply_bytes: size of its scores.
            held: gives their memory back when it is closed: after the reply was sent.

        Raises:
            Overloaded: the bound is reached; `retry_after` is what the backlog takes at the speed
                of late.
            CounterhintError: admission was closed with it.
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
        async with AsyncExitStack() as turn:
            self.waiting_tokens += tokens
            try:
                await self.hold(reply_bytes, held)
                await turn.enter_async_context(self._turns.take(tokens if self._by_tokens else 1))
            finally:
                self.waiting_tokens -= tokens
            self.running_tokens += tokens
            self._running_jobs += 1
            try:
                yield time.monotonic() - arrived
            finally:
                self.running_tokens -= tokens
                self._running_jobs -= 1

    async def hold(self, reply_bytes: int, held: AsyncExitStack) -> None:
        """Waits until there is room for a job's scores.

        Args:
            reply_bytes: their size.
            held: gives their memory back when it is closed: after the reply was sent.

        Raises:
            CounterhintError: admission was closed with it.
        """
        await held.enter_async_context(self._memory.take(reply_bytes))

    def observe(self, tokens: int, seconds: float) -> None:
        """Tells how long the engine took for a job at the engine, to know its speed."""
        if seconds > 0:
            rate = tokens / seconds * max(self._running_jobs, 1)
            self._rate += 0.2 * (rate - self._rate)

    def close(self, error: CounterhintError) -> None:
        """Lets nobody in any more: those who wait or come get the error."""
        self._memory.close(error)
        self._turns.close(error)
