"""Monitors: where the figures of a training run go."""

from collections.abc import Mapping, Sequence

from student_trainer.monitors.base import Monitor
from student_trainer.monitors.jsonl import JsonlFile, JsonlMonitor, read_rows
from student_trainer.monitors.tensorboard import TensorBoardMonitor
from student_trainer.monitors.terminal import TerminalMonitor

__all__ = [
    "JsonlFile",
    "JsonlMonitor",
    "Monitor",
    "Monitors",
    "TensorBoardMonitor",
    "TerminalMonitor",
    "read_rows",
]


class Monitors(Monitor):
    """Several monitors as one; each call goes to them in the order given, `close` in reverse."""

    def __init__(self, monitors: Sequence[Monitor]) -> None:
        self._monitors = tuple(monitors)

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Start each monitor."""
        for monitor in self._monitors:
            monitor.start(recipe, total_steps, resumed_step)

    def log(self, row: Mapping[str, float]) -> None:
        """Give the row to each monitor."""
        for monitor in self._monitors:
            monitor.log(row)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Give the progress to each monitor."""
        for monitor in self._monitors:
            monitor.progress(stage, done, total)

    def close(self) -> None:
        """Close each monitor."""
        for monitor in reversed(self._monitors):
            monitor.close()
