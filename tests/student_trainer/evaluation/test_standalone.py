"""`counterhint eval` on a tiny student."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from counterhint.command_line import EXIT_BAD_INPUT, EXIT_DONE, run_command
from student_trainer.cli import Eval
from student_trainer.evaluation import read_evaluations
from student_trainer.evaluation.standalone import evaluate
from student_trainer.ranks import Ranks
from student_trainer.recipe import load_recipe


@pytest.fixture
def recipe(tmp_path: Path, student_folder: Path) -> Path:
    content: dict[str, Any] = {
        "run_dir": str(tmp_path / "run"),
        "steps": 4,
        "task": {"kind": "chain", "operations": 1},
        "student": {"model": str(student_folder), "device": "cpu"},
        "rollouts": {"max_new_tokens": 8},
        "method": {"kind": "grpo"},
        "evaluation": {"problems": 4, "samples": 2, "pass_at": [2]},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def call(*arguments: object) -> int:
    return run_command(Eval, "counterhint eval", [str(argument) for argument in arguments])


def test_outcomes_are_printed_written_and_compared(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "before.jsonl"
    assert call(recipe, "--out", out) == EXIT_DONE
    assert "mean@2" in capsys.readouterr().out
    ((step, evaluations),) = read_evaluations(out)
    assert step == 0
    assert [problem.samples for problem in evaluations.heldout.problems] == [2] * 4

    assert call(recipe, "--against", out, "--json") == EXIT_DONE
    printed = json.loads(capsys.readouterr().out)
    # The same weights, problems and seed.
    assert (
        printed["sets"]["heldout"]["problems"]
        == evaluations.record()["sets"]["heldout"]["problems"]
    )
    assert printed["changes"]["heldout"]["accuracy"]["value"] == 0
    assert set(printed["changes"]["heldout"]) == {"accuracy", "pass@2"}
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_takes_the_place_of_the_model(recipe: Path, student_folder: Path) -> None:
    elsewhere = load_recipe(recipe, ["student.model=nowhere"], {})
    found = evaluate(elsewhere, student_folder, Ranks())
    assert found == evaluate(load_recipe(recipe, [], {}), None, Ranks())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "nowhere"], "nowhere holds no model"),
        (["--against", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--out", "nowhere/x.jsonl"], "there is no folder nowhere"),
    ],
)
def test_mistakes_are_named_before_anything_is_sampled(
    recipe: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(recipe, *arguments) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_an_evaluation_of_other_problems_is_refused_before_anything_is_sampled(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "before.jsonl"
    assert call(recipe, "evaluation.problems=3", "--out", out) == EXIT_DONE
    assert call(recipe, "student.model=nowhere", "--against", out) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert "other problems (3 in heldout, here 4)" in message
    assert "give evaluation.problems=3, or leave --against out" in message
    others = ["evaluation.problems=3", "task.operations=2", "--against", out]
    assert call(recipe, *others) == EXIT_BAD_INPUT
    assert "give the recipe of that evaluation" in capsys.readouterr().err


def test_a_folder_to_write_to_is_refused_before_anything_is_sampled(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(recipe, "student.model=nowhere", "--out", tmp_path) == EXIT_BAD_INPUT
    assert f"--out {tmp_path} is a folder" in capsys.readouterr().err


def test_an_adapter_needs_the_recipe_of_its_run(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert call(recipe, "--checkpoint", tmp_path) == EXIT_BAD_INPUT
    assert "the recipe has no student.lora" in capsys.readouterr().err
