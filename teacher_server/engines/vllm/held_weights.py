"""Weights that an engine holds for the jobs that name them: loaded once, a bounded number."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from functools import partial
from typing import Generic, TypeVar

from counterhint.jobs import Weights
from teacher_server.engines.vllm.turns import Turns

Prepared = TypeVar("Prepared")
Held = TypeVar("Held")
Key = tuple[str, str] | None

log = logging.getLogger(__name__)


def weights_key(weights: Weights | None) -> Key:
    """What tells weights apart: file and hash; None for the server's own."""
    return None if weights is None else (weights.uri, weights.sha256.lower())


class HeldWeights(Generic[Prepared, Held]):
    """At most `bound` weights at once; jobs that want others wait for their turn.

    Weights that nobody uses stay until others need the place, the least recently used go first.
    When loading fails, all jobs that wait for it fail, and the next one has it tried again.

    Args:
        bound: how many.
        prepare: reads and checks a file, on another thread; when it raises, nothing is dropped.
        load: has the engine load what was prepared.
        drop: has the engine forget it.
    """

    def __init__(
        self,
        bound: int,
        prepare: Callable[[Weights | None], Prepared],
        load: Callable[[Weights | None, Prepared], Awaitable[Held]],
        drop: Callable[[Held], Awaitable[None]],
    ) -> None:
        self._bound = bound
        self._prepare = prepare
        self._load = load
        self._drop = drop
        self._loading: dict[Hashable, asyncio.Task[None]] = {}
        self._one_load = asyncio.Lock()
        self._turns = Turns(bound, may_join=self._loading.__contains__)
        self.held: OrderedDict[Key, Held] = OrderedDict()
        """What the engine holds, least recently used first."""
        self.steps = 0
        """Grows while weights are being loaded."""

    @asynccontextmanager
    async def use(self, weights: Weights | None) -> AsyncIterator[Held]:
        """Inside the block the engine holds these weights.

        Raises:
            Exception: what `prepare`, `load` or `drop` raise.
        """
        key = weights_key(weights)
        async with self._turns.turn(key):
            if key not in self.held:
                await self._loaded(weights)
            self.held.move_to_end(key)
            yield self.held[key]

    async def _loaded(self, weights: Weights | None) -> None:
        key = weights_key(weights)
        if key not in self._loading:
            loading = asyncio.create_task(self._make_room_and_load(weights))
            loading.add_done_callback(partial(self._end_loading, key))
            self._loading[key] = loading
        loading = self._loading[key]
        try:
            await asyncio.shield(loading)
        except asyncio.CancelledError:
            # Half a loading is no state to leave to others: it is their turn when it is done.
            await asyncio.wait([loading])
            raise

    def _end_loading(self, key: Key, loading: asyncio.Task[None]) -> None:
        del self._loading[key]
        # All who waited may have been cancelled: then nobody else hears of it.
        if not loading.cancelled() and (error := loading.exception()) is not None:
            log.warning("weights %s were not loaded: %s", key[0] if key else "of the server", error)

    async def _make_room_and_load(self, weights: Weights | None) -> None:
        key = weights_key(weights)
        async with self._one_load:
            self.steps += 1
            prepared = await asyncio.to_thread(self._prepare, weights)
            while len(self.held) >= self._bound:
                # There is one: of the places, this key's turn takes one, and it is not held yet.
                oldest = next(other for other in self.held if other not in self._turns)
                self.steps += 1
                await self._drop(self.held.pop(oldest))
                log.info("dropped weights %s", oldest[0] if oldest else "of the server")
            self.steps += 1
            self.held[key] = await self._load(weights, prepared)
            self.steps += 1
            log.info("loaded weights %s", weights.uri if weights else "of the server")
