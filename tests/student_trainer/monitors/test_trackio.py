import json
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from counterhint.errors import InputError
from student_trainer.monitors import TrackioConfig


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    """trackio takes one folder a process, and a run that is resumed is another process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )


def log_steps(
    run_dir: Path, steps: range, resumed_step: int | None = None, folder: Path | None = None
) -> None:
    done = run_program(f"""
        from pathlib import Path
        from student_trainer.monitors import TrackioConfig
        folder = {folder and str(folder)!r}
        config = TrackioConfig(project="tests", group="rlcsd", dir=folder)
        with config.build(Path({str(run_dir)!r})) as monitor:
            monitor.start({{"method": {{"kind": "rlcsd"}}}}, 10, {resumed_step})
            for step in {steps}:
                monitor.log({{"step": step, "rollout/reward": step / 8}})
    """)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def rows(folder: Path) -> list[tuple[str, int, dict[str, Any]]]:
    """(run's name, step, figures) of all runs in a folder of trackio."""
    with sqlite3.connect(folder / "tests.db") as database:
        found = database.execute("select run_name, step, metrics from metrics order by id")
        return [(name, step, json.loads(figures)) for name, step, figures in found]


def test_figures_are_in_the_runs_folder_each_step_once(tmp_path: Path) -> None:
    run_dir = tmp_path / "demo"
    log_steps(run_dir, range(4))
    first = json.loads((run_dir / "trackio.json").read_text())
    log_steps(run_dir, range(3, 6), resumed_step=2)
    assert rows(run_dir / "trackio") == [
        ("demo", step, {"rollout/reward": step / 8}) for step in range(6)
    ]
    assert json.loads((run_dir / "trackio.json").read_text()) == first
    log_steps(run_dir, range(2))  # a run that starts over replaces its own records
    assert [step for _, step, _ in rows(run_dir / "trackio")] == [0, 1]


def test_runs_can_share_a_folder_but_not_a_name(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    log_steps(tmp_path / "one", range(2), folder=shared)
    log_steps(tmp_path / "two", range(1), folder=shared)
    assert [(name, step) for name, step, _ in rows(shared)] == [("one", 0), ("one", 1), ("two", 0)]
    with pytest.raises(AssertionError, match=r"holds another run 'one' .* give monitors\.trackio"):
        log_steps(tmp_path / "elsewhere" / "one", range(1), folder=shared)


def test_a_second_folder_in_one_process_is_refused(tmp_path: Path) -> None:
    done = run_program(f"""
        from pathlib import Path
        from student_trainer.monitors import TrackioConfig
        for name in ("one", "two"):
            with TrackioConfig().build(Path({str(tmp_path)!r}) / name) as monitor:
                monitor.start({{}}, 1)
    """)
    assert "trackio takes no second folder: set monitors.trackio.dir=" in done.stderr


def test_without_trackio_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install 'counterhint\[trackio\]'"):
        TrackioConfig().build(tmp_path)


def test_a_monitor_that_was_not_started_takes_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not started"):
        TrackioConfig().build(tmp_path).log({"step": 0})
