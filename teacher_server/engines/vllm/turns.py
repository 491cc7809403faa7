"""Turns at something that serves a few kinds of work at once: those of one kind go together."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager


class Turns:
    """Lets work of at most `places` keys in at once, any amount of each.

    While somebody waits, newcomers wait behind him, even when their key is inside: so those inside
    come to an end, and nobody starves. When a key's turn comes, all who wait for it go in together.

    Args:
        places: how many keys.
        may_join: whether newcomers with a key that is inside need not wait, because what its turn
            is for has not begun.
    """

    def __init__(
        self, places: int, may_join: Callable[[Hashable], bool] = lambda key: False
    ) -> None:
        self._places = places
        self._may_join = may_join
        self._inside: Counter[Hashable] = Counter()
        self._waiting: list[tuple[Hashable, asyncio.Future[None]]] = []

    def __contains__(self, key: Hashable) -> bool:
        """Whether somebody is inside with this key."""
        return key in self._inside

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Inside the block it is this key's turn."""
        await self._enter(key)
        try:
            yield
        finally:
            self._leave(key)

    async def _enter(self, key: Hashable) -> None:
        joins = key in self._inside and self._may_join(key)
        if joins or (not self._waiting and self._has_place(key)):
            self._inside[key] += 1
            return
        admitted = asyncio.get_running_loop().create_future()
        self._waiting.append((key, admitted))
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self._admit()  # those behind may have waited for this one only
            else:
                self._leave(key)  # let in at the same moment
            raise

    def _leave(self, key: Hashable) -> None:
        self._inside[key] -= 1
        if not self._inside[key]:
            del self._inside[key]
            self._admit()

    def _admit(self) -> None:
        """Lets in whoever's turn it is."""
        self._waiting = [waiter for waiter in self._waiting if not waiter[1].cancelled()]
        while self._waiting and self._has_place(first := self._waiting[0][0]):
            for key, admitted in self._waiting:
                if key == first:
                    self._inside[key] += 1
                    admitted.set_result(None)
            self._waiting = [waiter for waiter in self._waiting if waiter[0] != first]

    def _has_place(self, key: Hashable) -> bool:
        return key in self._inside or len(self._inside) < self._places
