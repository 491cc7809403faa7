"""One run's queued jobs of one priority level, in process."""

from bisect import insort
from collections import OrderedDict
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Lane(Generic[Item]):
    """Items by order of arrival; those that came back go before all others."""

    def __init__(self) -> None:
        self._items: OrderedDict[int, Item] = OrderedDict()
        self._returned: list[int] = []
        """Numbers of the items that came back, in the order of their arrival."""

    def __len__(self) -> int:
        return len(self._items)

    def add(self, number: int, item: Item, *, returned: bool) -> None:
        """Adds an item; a new one has a higher number than all before it."""
        self._items[number] = item
        if returned:
            insort(self._returned, number)

    def first(self) -> Item:
        """The next item; there must be one."""
        return self._items[self._returned[0] if self._returned else next(iter(self._items))]

    def remove(self, number: int) -> None:
        """Removes an item."""
        del self._items[number]
        if number in self._returned:
            self._returned.remove(number)
