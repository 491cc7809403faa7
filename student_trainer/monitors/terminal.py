"""The live view in a terminal, and plain lines where there is none (a log file, a pipe)."""

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from student_trainer.monitors.base import Monitor

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 20
_WIDE = 90  # columns from which on the figures stand beside the courses


class TerminalMonitor(Monitor):
    """Shows where the run is and how it goes.

    On a terminal one panel is redrawn in place; elsewhere every step prints one line without
    escape codes.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._title = ""
        self._step = self._first_step = self._total_steps = 0
        self._began = time.monotonic()
        self._stage: tuple[str, int, int] | None = None
        self._latest: dict[str, float] = {}
        self._history: defaultdict[str, list[float]] = defaultdict(list)
        self._accuracies: list[tuple[int, float]] = []

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        """Open the view."""
        method = recipe.get("method")
        self._title = str(method["kind"]) if isinstance(method, Mapping) else "training"
        self._step = self._first_step = resumed_step or 0
        self._total_steps = total_steps
        self._began = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._panel, console=self._console, refresh_per_second=4
            )
            self._live.start()
        else:
            self._print(f"{self._title}: step {self._step} of {total_steps}")

    def log(self, row: Mapping[str, float]) -> None:
        """Take the row into the view."""
        self._step = int(row["step"])
        self._stage = None
        self._latest.update(row)
        for key in _SPARKLINES:
            if key in row:
                self._history[key].append(row[key])
        if "eval/accuracy" in row:
            self._accuracies.append((self._step, row["eval/accuracy"]))
        if self._live is None:
            self._print(self._line(row))

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show the stage in the view; plain lines leave it out."""
        self._stage = (stage, done, total)

    def close(self) -> None:
        """Leave the last state of the view on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)

    def _line(self, row: Mapping[str, float]) -> str:
        parts = [f"step {self._step}/{self._total_steps}"]
        parts += [
            f"{label} {form(row[key])}"
            for key, label, form in _LINE
            if key in row and (row[key] or key not in _UNLESS_ZERO)
        ]
        left = self._seconds_left()
        if left is not None:
            parts.append(f"left {_clock(left)}")
        return "  ".join(parts)

    def _seconds_left(self) -> float | None:
        done = self._step - self._first_step
        if done <= 0 or self._step >= self._total_steps:
            return None
        return (time.monotonic() - self._began) / done * (self._total_steps - self._step)

    def _panel(self) -> RenderableType:
        return Panel(
            Group(self._bars(), Text(), self._figures()),
            title=Text(f" {self._title} ", style="bold"),
            title_align="left",
            border_style="dim",
            padding=(1, 2),
        )

    def _bars(self) -> RenderableType:
        bars = Table.grid(padding=(0, 2), expand=True)
        bars.add_column(min_width=18, no_wrap=True)
        bars.add_column(ratio=1)
        bars.add_column(justify="right", no_wrap=True, style="dim")
        left = self._seconds_left()
        bars.add_row(
            Text(f"step {self._step} / {self._total_steps}", style="bold"),
            ProgressBar(total=max(self._total_steps, 1), completed=self._step),
            _clock(time.monotonic() - self._began) + (f", {_clock(left)} left" if left else ""),
        )
        if self._stage is not None:
            stage, done, total = self._stage
            bars.add_row(
                Text(stage, style="dim"),
                ProgressBar(total=max(total, 1), completed=done, complete_style="blue"),
                f"{done} / {total}",
            )
        return bars

    def _figures(self) -> RenderableType:
        courses = Table.grid(padding=(0, 2))
        for key, (label, form) in _SPARKLINES.items():
            if key in self._latest:
                spark = Text(_sparkline(self._history[key]), style="blue")
                value = Text(form(self._latest[key]), justify="right")
                courses.add_row(Text(label, style="dim"), value, spark)
        figures = Table.grid(padding=(0, 2))
        figures.add_row(Text("accuracy", style="dim"), Text(self._accuracy()))
        for key, (label, form) in _FIGURES.items():
            if key in self._latest and (self._latest[key] or key not in _UNLESS_ZERO):
                figures.add_row(Text(label, style="dim"), Text(form(self._latest[key])))
        if self._console.width < _WIDE:
            return Group(courses, figures)
        return Columns([courses, figures], padding=(0, 4))

    def _accuracy(self) -> str:
        """Held-out accuracy before training, where this process saw it, and at the latest."""
        if not self._accuracies:
            return "not measured yet"
        first_step, before = self._accuracies[0]
        step, now = self._accuracies[-1]
        change = f"{_percent(before)} → " if first_step == 0 and step > 0 else ""
        return f"{change}{_percent(now)} (step {step})"


def _sparkline(values: Sequence[float]) -> str:
    """The values as a row of blocks, averaged down to the width; flat values sit in the middle."""
    count = len(values)
    columns = min(count, _SPARK_WIDTH)
    edges = [index * count // columns for index in range(columns + 1)] if columns else []
    means = [sum(values[start:stop]) / (stop - start) for start, stop in itertools.pairwise(edges)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    if high == low:
        return _BLOCKS[len(_BLOCKS) // 2] * columns
    scale = (len(_BLOCKS) - 1) / (high - low)
    return "".join(_BLOCKS[round((mean - low) * scale)] for mean in means)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_SPARKLINES: dict[str, tuple[str, Callable[[float], str]]] = {
    "rollout/reward": ("reward", _number),
    "rollout/length": ("length", _number),
    "rollout/entropy": ("entropy", _number),
}
_FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "drift/kl_to_start": ("KL to start", _number),
    "hints/coverage": ("hint coverage", _percent),
    "scoring/wait_share": ("scoring wait", _percent),
    "staleness/mean": ("staleness", _number),
    "time/tokens_per_second": ("tokens/s", _number),
}
_LINE = (
    ("eval/accuracy", "accuracy", _percent),
    ("rollout/reward", "reward", _number),
    ("rollout/length", "length", _number),
    ("rollout/entropy", "entropy", _number),
    ("drift/kl_to_start", "KL", _number),
    ("hints/coverage", "hints", _percent),
    ("scoring/wait_share", "wait", _percent),
    ("staleness/mean", "stale", _number),
    ("time/tokens_per_second", "tokens/s", _number),
)
_UNLESS_ZERO = {"staleness/mean"}
"""Figures that only say something where sampling runs ahead."""
