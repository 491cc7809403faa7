import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from counterhint.errors import InputError
from student_trainer.monitors import WandbConfig

_BLOCK = 32 * 1024
_HEADER = 7


def log_steps(run_dir: Path, steps: range, resumed_step: int | None = None) -> None:
    """In a process of its own, like a run that is resumed."""
    program = f"""
        from pathlib import Path
        from student_trainer.monitors import WandbConfig
        config = WandbConfig(project="tests", group="rlcsd", tags=("tiny",), mode="offline")
        with config.build(Path({str(run_dir)!r})) as monitor:
            monitor.start({{"method": {{"kind": "rlcsd"}}}}, 10, {resumed_step})
            for step in {steps}:
                monitor.log({{"step": step, "rollout/reward": step / 8, "drift/length": 1.5}})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def records(run_dir: Path) -> Iterator[Record]:
    """What the runs of a folder wrote, in the order of time: LevelDB's log format, with the file's
    own header in front."""
    for file in sorted(run_dir.glob("wandb/offline-run-*/*.wandb")):
        data, place, parts = file.read_bytes(), _HEADER, b""
        while place + _HEADER <= len(data):
            left = _BLOCK - place % _BLOCK
            if left < _HEADER:
                place += left
                continue
            size = int.from_bytes(data[place + 4 : place + 6], "little")
            if place + _HEADER + size > len(data):
                break  # it is being written
            kind = data[place + 6]
            parts += data[place + _HEADER : place + _HEADER + size]
            place += _HEADER + size
            if kind in (1, 4):  # whole, or the last part
                yield Record.FromString(parts)
                parts = b""


def history(run_dir: Path) -> list[dict[str, Any]]:
    rows = []
    for record in records(run_dir):
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(item.nested_key) or item.key: item for item in record.history.item}
            rows.append({key: json.loads(item.value_json) for key, item in items.items()})
    return rows


def runs(run_dir: Path) -> list[Any]:
    return [r.run for r in records(run_dir) if r.WhichOneof("record_type") == "run"]


def test_offline_figures_and_recipe_are_in_the_runs_folder(tmp_path: Path) -> None:
    log_steps(tmp_path / "demo", range(3))
    rows = history(tmp_path / "demo")
    assert [row["_step"] for row in rows] == [0, 1, 2]
    assert [row["rollout/reward"] for row in rows] == [0, 0.125, 0.25]
    assert [row["drift/length"] for row in rows] == [1.5] * 3
    (run,) = runs(tmp_path / "demo")
    assert (run.project, run.display_name, run.run_group) == ("tests", "demo", "rlcsd")
    assert list(run.tags) == ["tiny"]
    recipe = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert recipe["method"] == {"kind": "rlcsd"}
    log_steps(tmp_path / "demo", range(1))  # a new run in the same folder is another one
    assert len({run.run_id for run in runs(tmp_path / "demo")}) == 2


def test_a_killed_run_that_is_resumed_has_each_step_once(tmp_path: Path) -> None:
    program = f"""
        import time
        from pathlib import Path
        from student_trainer.monitors import WandbConfig
        monitor = WandbConfig(mode="offline").build(Path({str(tmp_path)!r}))
        monitor.start({{}}, 10)
        for step in range(4):
            monitor.log({{"step": step, "rollout/reward": 0.5}})
        time.sleep(600)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    try:
        deadline = time.monotonic() + 240  # keeps a broken test from hanging
        while len(history(tmp_path)) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    log_steps(tmp_path, range(3, 6), resumed_step=2)
    assert [row["_step"] for row in history(tmp_path)] == [0, 1, 2, 3, 4, 5]
    assert len({run.run_id for run in runs(tmp_path)}) == 1


def test_without_wandb_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install 'counterhint\[wandb\]'"):
        WandbConfig().build(tmp_path)


def test_a_monitor_that_was_not_started_takes_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not started"):
        WandbConfig().build(tmp_path).log({"step": 0})
