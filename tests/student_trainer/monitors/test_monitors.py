import subprocess
import sys
from collections.abc import Mapping

import pytest

from student_trainer.monitors import Monitor, Monitors


class Recorder(Monitor):
    """Writes its calls into a list shared with others."""

    def __init__(self, name: str, calls: list[tuple[object, ...]]) -> None:
        self.name = name
        self.calls = calls

    def start(
        self, recipe: Mapping[str, object], total_steps: int, resumed_step: int | None = None
    ) -> None:
        self.calls.append((self.name, "start", total_steps, resumed_step))

    def log(self, row: Mapping[str, float]) -> None:
        self.calls.append((self.name, "log", row["step"]))

    def progress(self, stage: str, done: int, total: int) -> None:
        self.calls.append((self.name, stage, done, total))

    def close(self) -> None:
        self.calls.append((self.name, "close"))


def test_every_call_reaches_every_monitor_and_the_last_opened_closes_first() -> None:
    calls: list[tuple[object, ...]] = []
    with Monitors([Recorder("a", calls), Recorder("b", calls)]) as monitors:
        monitors.start({}, 5, resumed_step=2)
        monitors.progress("sampling", 1, 2)
        monitors.log({"step": 3})
    assert calls == [
        ("a", "start", 5, 2),
        ("b", "start", 5, 2),
        ("a", "sampling", 1, 2),
        ("b", "sampling", 1, 2),
        ("a", "log", 3),
        ("b", "log", 3),
        ("b", "close"),
        ("a", "close"),
    ]


def test_monitors_are_closed_when_the_run_fails() -> None:
    calls: list[tuple[object, ...]] = []
    with pytest.raises(RuntimeError, match="out of memory"), Monitors([Recorder("a", calls)]):
        raise RuntimeError("out of memory")
    assert calls == [("a", "close")]


def test_importing_the_monitors_loads_none_of_the_libraries_behind_them() -> None:
    program = (
        "import sys, student_trainer.monitors, student_trainer.report;"
        "libraries = ('torch', 'tensorboard', 'wandb', 'trackio');"
        "print([name for name in libraries if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
