"""What a dry run found, as a list and as a table for a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from counterhint.errors import CounterhintError, InputError

Level = Literal["ok", "warning", "problem"]
"""problem: the run could not start, or would end later. warning: it may be meant."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked."""

    name: str
    """What was checked."""
    level: Level
    """How it is."""
    text: str
    """What was found; of a warning or problem also the remedy."""


@dataclass(slots=True)
class Checklist:
    """Checks in the order in which they were made."""

    checks: list[Check] = field(default_factory=list)
    """What was checked."""

    @property
    def passed(self) -> bool:
        """Whether there is no problem; warnings are none."""
        return all(check.level != "problem" for check in self.checks)

    def ok(self, name: str, text: str) -> None:
        """Adds a check that found nothing wrong."""
        self.checks.append(Check(name, "ok", text))

    def warn(self, name: str, text: str) -> None:
        """Adds a warning."""
        self.checks.append(Check(name, "warning", text))

    def problem(self, name: str, text: str) -> None:
        """Adds a problem."""
        self.checks.append(Check(name, "problem", text))

    @contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Turns an error of the user's input within the block into a problem of that name."""
        try:
            yield
        except (InputError, CounterhintError) as error:
            self.problem(name, str(error))

    def verdict(self) -> str:
        """The outcome in one line."""
        levels = [check.level for check in self.checks]
        counts = f"{levels.count('problem')} problem(s), {levels.count('warning')} warning(s)"
        return f"{counts}: the run {'can start' if self.passed else 'cannot start as it is'}."

    def as_json(self) -> dict[str, Any]:
        """`{"passed": …, "checks": [{"name", "level", "text"}, …]}`."""
        checks = [
            {"name": check.name, "level": check.level, "text": check.text} for check in self.checks
        ]
        return {"passed": self.passed, "checks": checks}

    def table(self) -> Table:
        """A line for each check."""
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for check in self.checks:
            style = _STYLES[check.level]
            table.add_row(Text(check.level, style=style), Text(check.name), Text(check.text))
        return table


_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
