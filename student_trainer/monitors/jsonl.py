"""Records with one JSON object a line: `metrics.jsonl`, `rollouts.jsonl`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from counterhint.errors import InputError
from student_trainer.monitors.base import Monitor


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line.

    A last line without a line end is what a process that was killed left behind: it is not a row.

    Raises:
        InputError: A line is not a JSON object with an integer `step`.
    """
    return [row for row, _ in _parse_lines(path)]


class JsonlFile:
    """A file of one JSON object a line, each belonging to a `step`.

    Every row is on disk when `append` returns, as far as this process can see to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None

    def start(self, resumed_step: int | None = None) -> None:
        """Open the file, for a new run empty, for a resumed one with the rows up to that step.

        Raises:
            InputError: The file of a resumed run has a broken line.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = b""
        if resumed_step is not None and self.path.exists():
            kept = b"".join(
                line for row, line in _parse_lines(self.path) if row["step"] <= resumed_step
            )
        # Written aside and renamed: a crash here must not cost the rows that are to be kept.
        aside = self.path.with_name(f"{self.path.name}.new")
        with aside.open("wb") as file:
            file.write(kept)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)
        self._file = self.path.open("ab")

    def append(self, row: Mapping[str, object]) -> None:
        """Add one row.

        Raises:
            ValueError: A value is NaN or infinite (JSON knows neither), or there is no `step`.
        """
        if self._file is None:
            raise ValueError(f"{self.path} was not started")
        if not isinstance(row.get("step"), int):
            raise ValueError(f"{self.path.name}: a row needs an integer `step`: {row.get('step')}")
        try:
            line = json.dumps(row, allow_nan=False, ensure_ascii=False)
        except ValueError as error:
            raise ValueError(
                f"{self.path.name}, step {row['step']}: {_not_finite(row)} is NaN or infinite; "
                "leave out what does not apply"
            ) from error
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class JsonlMonitor(Monitor):
    """Appends each row to a file, by convention `metrics.jsonl` in the run's folder."""

    def __init__(self, path: Path) -> None:
        self._rows = JsonlFile(path)

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Open the file; a resumed run then has each step once."""
        self._rows.start(resumed_step)

    def log(self, row: Mapping[str, float]) -> None:
        """Append the row.

        Raises:
            ValueError: A value is NaN or infinite.
        """
        self._rows.append(row)

    def close(self) -> None:
        """Close the file."""
        self._rows.close()


def _parse_lines(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    """Each row with the bytes that it was read from."""
    parsed = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number} is not JSON ({error}): remove the line, or start the run "
                "anew in another folder"
            ) from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise InputError(f"{path}, line {number} must be an object with an integer `step`")
        parsed.append((row, line))
    return parsed


def _not_finite(row: Mapping[str, object]) -> str:
    """The key whose value JSON refuses."""
    for key, value in row.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            return repr(key)
    return "a value"
