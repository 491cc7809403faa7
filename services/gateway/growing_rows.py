"""A file of JSON rows that a run goes on writing, read as far as it has come.

Rows have an integer `step` that never falls. Only what was appended since is read; of a file that
was replaced (a resumed run keeps the rows up to its checkpoint) everything is read again.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class GrowingRows:
    """The rows of one file. Not for several threads at a time.

    Args:
        path: the file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = -1
        self._end = 0
        """Bytes of the whole lines that were read."""
        self._places: list[tuple[int, int, int]] = []
        """Of each row: step, place in the file, bytes."""
        self._latest: dict[str, float] = {}

    @property
    def last_step(self) -> int | None:
        """The step of the last row."""
        return self._places[-1][0] if self._places else None

    @property
    def latest(self) -> dict[str, float]:
        """Of each key that ever had a number, the last one."""
        return dict(self._latest)

    def refresh(self) -> None:
        """Finds the rows that have been added; a last line without its end is still being written.

        Lines that are no rows are passed over: the run's own reader complains of them.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            self._begin(-1)
            return
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._end:
                self._begin(status.st_ino)
            file.seek(self._end)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                row = _parse(line)
                if row is not None:
                    self._places.append((row["step"], self._end, len(line)))
                    numbers = (one for one in row.items() if isinstance(one[1], int | float))
                    self._latest.update(numbers)
                self._end += len(line)

    def _begin(self, inode: int) -> None:
        """Forgets what was read of another file."""
        self._inode, self._end, self._places, self._latest = inode, 0, [], {}

    def after(self, step: int) -> Iterator[dict[str, Any]]:
        """The rows of later steps, in order."""
        first = next((i for i, place in enumerate(self._places) if place[0] > step), None)
        if first is not None:
            yield from self._read(first)

    def last_steps(self, count: int) -> Iterator[dict[str, Any]]:
        """The rows of the last so many steps that have rows, in order."""
        yield from self._read(self._first_of(count))

    def last_steps_within(self, count: int, max_bytes: int) -> tuple[list[dict[str, Any]], int]:
        """The same, and how many of the older ones are left out because all take more bytes."""
        wanted = self._first_of(count)
        first, size = len(self._places), 0
        while first > wanted and (size := size + self._places[first - 1][2]) <= max_bytes:
            first -= 1
        return list(self._read(first)), first - wanted

    def _first_of(self, steps: int) -> int:
        """The first row of the last so many steps that have rows."""
        kept = list(dict.fromkeys(step for step, _, _ in self._places))[-steps:]
        return next((i for i, place in enumerate(self._places) if place[0] in kept), 0)

    def _read(self, first: int) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            for _, place, size in self._places[first:]:
                file.seek(place)
                if (row := _parse(file.read(size))) is not None:
                    yield row


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
