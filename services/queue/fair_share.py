"""Fair order between runs in process: virtual token counters (VTC, arXiv 2401.00588)."""

from heapq import heapify, heappop, heappush


class FairShare:
    """The runs that have work, by virtual token counter; each operation takes O(log runs)."""

    def __init__(self) -> None:
        self._active: dict[str, float] = {}
        self._idle: dict[str, float] = {}
        self._order: list[tuple[float, str]] = []
        """A heap of counters and runs; entries that `_active` contradicts are out of date."""
        self._last_left = 0.0
        """Counter of the run that had work last."""

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._active

    def first(self) -> str | None:
        """The run with the lowest counter; None when there is no work."""
        while self._order:
            counter, run_id = self._order[0]
            if self._active.get(run_id) == counter:
                return run_id
            heappop(self._order)
        return None

    def enter(self, run_id: str) -> None:
        """The run has work again; what it left unused while it was idle is not saved up."""
        first = self.first()
        lowest = self._last_left if first is None else self._active[first]
        self._set(run_id, max(self._idle.pop(run_id, 0.0), lowest))

    def leave(self, run_id: str) -> None:
        """The run has no more work; nothing happens when it had none."""
        if run_id in self._active:
            self._last_left = self._idle[run_id] = self._active.pop(run_id)

    def charge(self, run_id: str, tokens: float) -> None:
        """Adds to the run's counter; negative tokens are a credit."""
        if run_id in self._active:
            self._set(run_id, self._active[run_id] + tokens)
        else:
            self._idle[run_id] = self._idle.get(run_id, 0.0) + tokens

    def _set(self, run_id: str, counter: float) -> None:
        self._active[run_id] = counter
        heappush(self._order, (counter, run_id))
        if len(self._order) > 4 * len(self._active) + 64:  # mostly out of date
            self._order = [(counter, run_id) for run_id, counter in self._active.items()]
            heapify(self._order)
