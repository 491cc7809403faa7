from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from student_trainer.monitors import TensorBoardMonitor


def write_steps(folder: Path, steps: range, offset: float, resumed_step: int | None = None) -> None:
    with TensorBoardMonitor(folder) as monitor:
        monitor.start({"method": "rlcsd", "optim": {"lr": 1e-6}}, 10, resumed_step)
        for step in steps:
            monitor.log({"step": step, "rollout/reward": offset + step})


def scalars(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_scalars_and_recipe_are_readable(tmp_path: Path) -> None:
    write_steps(tmp_path, range(3), offset=0.5)
    events = scalars(tmp_path)
    assert events.Tags()["scalars"] == ["rollout/reward"]
    rewards = [(point.step, point.value) for point in events.Scalars("rollout/reward")]
    assert rewards == [(0, 0.5), (1, 1.5), (2, 2.5)]
    (text,) = events.Tensors("recipe/text_summary")
    assert b"method: rlcsd" in text.tensor_proto.string_val[0]


def test_a_resumed_run_replaces_the_steps_after_its_checkpoint(tmp_path: Path) -> None:
    write_steps(tmp_path, range(6), offset=0)
    write_steps(tmp_path, range(4, 8), offset=100, resumed_step=3)
    points = scalars(tmp_path).Scalars("rollout/reward")
    assert [point.step for point in points] == list(range(8))
    assert [point.value for point in points] == [0, 1, 2, 3, 104, 105, 106, 107]


def test_a_new_run_replaces_an_earlier_one(tmp_path: Path) -> None:
    write_steps(tmp_path, range(6), offset=0)
    write_steps(tmp_path, range(2), offset=100)
    points = scalars(tmp_path).Scalars("rollout/reward")
    assert [point.value for point in points] == [100, 101]


def test_a_monitor_that_was_not_started_takes_no_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not started"):
        TensorBoardMonitor(tmp_path).log({"step": 0})
