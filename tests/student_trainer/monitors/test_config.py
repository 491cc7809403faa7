from pathlib import Path

import pytest
from pydantic import ValidationError

from student_trainer.monitors import MonitorsConfig, read_rows


def record_a_step(config: MonitorsConfig, folder: Path) -> None:
    with config.build(folder) as monitors:
        monitors.start({"method": {"kind": "grpo"}}, 1)
        monitors.log({"step": 0, "rollout/reward": 0.5})


def test_what_is_off_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_a_step(MonitorsConfig(tensorboard=False, terminal=False), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert capsys.readouterr().out == ""


def test_the_usual_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_a_step(MonitorsConfig(), tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 0, "rollout/reward": 0.5}]
    assert "step 0/1" in capsys.readouterr().out


def test_wandb_and_trackio_are_chosen_by_their_sections(tmp_path: Path) -> None:
    config = MonitorsConfig.model_validate({"wandb": {"mode": "offline"}, "trackio": {}})
    assert config.wandb is not None
    assert config.trackio is not None
    with pytest.raises(ValidationError, match=r"trackio\.space"):
        MonitorsConfig.model_validate({"trackio": {"space": "x"}})
