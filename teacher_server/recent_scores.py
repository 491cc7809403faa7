"""Scores of single pairs, a bounded number of bytes of them, least recently used out first."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from counterhint.jobs import SCORE_ARRAYS, Scores
from teacher_server import metrics

ENTRY_BYTES = 1024
"""What an entry takes beside its numbers: the key and Python's objects."""


class RecentScores:
    """Scores of single pairs by key, at most `max_bytes` of them, least recently used out first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Scores] = OrderedDict()
        self.bytes = 0
        """What they take."""

    def get(self, key: bytes) -> Scores | None:
        """The scores under a key, which become the most recently used."""
        scores = self._entries.get(key)
        if scores is not None:
            self._entries.move_to_end(key)
        return scores

    def put(self, key: bytes, scores: Scores) -> None:
        """Remembers scores, in place of others under this key.

        Args:
            key: of the pair.
            scores: in arrays of their own, that keep no larger ones in memory; not kept when they
                alone are above the bound.
        """
        if key in self._entries:
            self._drop(key)
        size = entry_bytes(scores)
        if size > self._max_bytes:
            return
        while self.bytes + size > self._max_bytes:
            self._drop(next(iter(self)))
            metrics.CACHE_EVICTIONS.inc()
        self._entries[key] = scores
        self.bytes += size

    def __iter__(self) -> Iterator[bytes]:
        """The keys, the least recently used first."""
        return iter(self._entries)

    def _drop(self, key: bytes) -> None:
        self.bytes -= entry_bytes(self._entries.pop(key))


def entry_bytes(scores: Scores) -> int:
    """What the scores of one pair take in the cache."""
    arrays: list[NDArray[Any] | None] = [getattr(scores, name) for name in SCORE_ARRAYS]
    return ENTRY_BYTES + sum(array.nbytes for array in arrays if array is not None)
