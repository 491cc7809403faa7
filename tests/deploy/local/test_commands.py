import dataclasses
from pathlib import Path
from typing import Any

import pytest

from deploy.local.commands import REPOSITORY, Training, models_command, train_command


@pytest.fixture
def training(tmp_path: Path) -> Training:
    recipe, student = tmp_path / "my.yaml", tmp_path / "student"
    return Training(recipe, tmp_path / "run", student, teacher="self", seed=3)


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [
        ({}, {"seed": "3"}),
        (
            {"method": "grpo", "steps": 7},
            {"include": str(REPOSITORY / "recipes" / "methods" / "grpo.yaml"), "steps": "7"},
        ),
        ({"teacher": "large"}, {"teacher_refresh.kind": "fixed"}),
        ({"settings": ["optimizer.lr=1e-3"]}, {"optimizer.lr": "1e-3"}),
    ],
)
def test_a_training_becomes_overrides_of_the_recipe(
    changes: dict[str, Any], overrides: dict[str, str], training: Training
) -> None:
    command = train_command(dataclasses.replace(training, **changes), "unix:///x.sock")
    assert command[3:5] == ["train", str(training.recipe)]
    given = dict(word.split("=", 1) for word in command[5:])
    always = {"run_dir", "student.model", "scoring.address", "seed"}
    assert given.keys() == always | overrides.keys()
    assert overrides.items() <= given.items()


def test_settings_of_the_user_come_last(training: Training) -> None:
    overrides = dataclasses.replace(training, steps=7, settings=["steps=9"]).overrides
    assert overrides.index("steps=9") > overrides.index("steps=7")


def test_the_larger_teacher_is_made_only_when_it_is_used(tmp_path: Path) -> None:
    assert "--only" in models_command(tmp_path / "r.yaml", tmp_path, larger_teacher=False)
    assert "--only" not in models_command(tmp_path / "r.yaml", tmp_path, larger_teacher=True)
