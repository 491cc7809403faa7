import json
import math
from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.monitors import JsonlFile, JsonlMonitor, read_rows


def write_steps(path: Path, steps: range, resumed_step: int | None = None) -> None:
    with JsonlMonitor(path) as monitor:
        monitor.start({}, 10, resumed_step)
        for step in steps:
            monitor.log({"step": step, "rollout/reward": step / 10})


def test_each_row_is_on_disk_when_log_returns(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    monitor = JsonlMonitor(path)
    monitor.start({}, 3)
    monitor.log({"step": 0, "eval/accuracy": 0.25})
    assert json.loads(path.read_text()) == {"step": 0, "eval/accuracy": 0.25}
    monitor.log({"step": 1, "rollout/reward": 0.5})
    assert [row["step"] for row in read_rows(path)] == [0, 1]
    monitor.close()
    monitor.close()


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(6))
    before = path.read_bytes().splitlines()
    write_steps(path, range(4, 8), resumed_step=3)
    assert [row["step"] for row in read_rows(path)] == list(range(8))
    assert path.read_bytes().splitlines()[:4] == before[:4]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_new_run_replaces_the_rows_of_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(6))
    write_steps(path, range(2))
    assert [row["step"] for row in read_rows(path)] == [0, 1]


def test_resuming_drops_the_half_line_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(3))
    with path.open("a") as file:
        file.write('{"step": 3, "rollout/rew')
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2]
    write_steps(path, range(3, 5), resumed_step=2)
    assert [row["step"] for row in read_rows(path)] == [0, 1, 2, 3, 4]


def test_resuming_without_a_file_begins_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_steps(path, range(4, 6), resumed_step=3)
    assert [row["step"] for row in read_rows(path)] == [4, 5]


@pytest.mark.parametrize("broken", ["{", "[]", '{"reward": 1}', '{"step": "1"}'])
def test_a_broken_line_is_named(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0}}\n{broken}\n{{"step": 2}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_rows(path)
    with pytest.raises(InputError, match="line 2"):
        write_steps(path, range(0), resumed_step=0)
    assert path.read_text().count("\n") == 3


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused_by_name(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlMonitor(path) as monitor:
        monitor.start({}, 3)
        with pytest.raises(ValueError, match="'optim/loss' is NaN or infinite"):
            monitor.log({"step": 1, "rollout/reward": 0.5, "optim/loss": value})
        assert path.read_text() == ""


def test_a_list_with_nan_is_refused_by_its_key(tmp_path: Path) -> None:
    rows = JsonlFile(tmp_path / "rollouts.jsonl")
    rows.start()
    with pytest.raises(ValueError, match="'e_ctr'"):
        rows.append({"step": 1, "student": [None, -0.5], "e_ctr": [0.5, math.nan]})
    rows.close()


def test_a_row_without_a_step_is_refused(tmp_path: Path) -> None:
    rows = JsonlFile(tmp_path / "rollouts.jsonl")
    rows.start()
    with pytest.raises(ValueError, match="integer `step`"):
        rows.append({"problem": "1 + 1"})
    rows.close()


def test_a_file_that_was_not_started_takes_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not started"):
        JsonlFile(tmp_path / "rollouts.jsonl").append({"step": 0})
