"""The stages of a launcher: announced, timed, and ended by a part's error."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


class StageFailed(Exception):
    """A stage ended without its result."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
        """The exit code that the stage ended with."""


class Stages:
    """Announces the stages and times them.

    Args:
        console: where they are announced.
        total: how many there are.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.seconds: dict[str, float] = {}
        """Of each stage that has ended."""
        self._console = console
        self._total = total

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """One stage: its name, and what happens in it."""
        self._console.rule(
            f"[bold]{len(self.seconds) + 1}/{self._total} {name}[/]: {what}", align="left"
        )
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)
        self._console.print(f"[green]✓[/] {name} ({self.seconds[name]:.1f} s)\n")

    def note(self, line: str) -> None:
        """Something that the user should know."""
        self._console.print(f"[yellow]![/] {escape(line)}", soft_wrap=True)


@contextmanager
def cursor_restored(console: Console) -> Iterator[None]:
    """Shows the cursor again, which a part that is ended while it draws leaves hidden."""
    try:
        yield
    finally:
        console.show_cursor()
