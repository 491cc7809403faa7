from pathlib import Path
from typing import Any

import pytest
import yaml

from counterhint.errors import InputError
from student_trainer.recipe import Recipe
from student_trainer.resume import find_checkpoint


def make_recipe(run_dir: Path, **settings: Any) -> Recipe:
    recipe: dict[str, Any] = {
        "run_dir": run_dir,
        "steps": 4,
        "task": {"kind": "chain"},
        "student": {"model": "models/student"},
        "method": {"kind": "rlcsd"},
    }
    return Recipe.model_validate(recipe | settings)


def began(run_dir: Path, **settings: Any) -> None:
    """A run folder with a checkpoint."""
    (run_dir / "checkpoints" / "step-000002").mkdir(parents=True)
    recipe = make_recipe(run_dir, **settings).model_dump(mode="json")
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def test_a_run_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    began(tmp_path)
    (tmp_path / "checkpoints" / "step-000010").mkdir()
    found = find_checkpoint(make_recipe(tmp_path, resume=True, steps=20))
    assert found == tmp_path / "checkpoints" / "step-000010"


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"method": {"kind": "rlcsd", "tau": 0.5}}, r"method.tau \(0.02 → 0.5\)"),
        ({"method": {"kind": "grpo"}}, r"method.kind \(rlcsd → grpo\)"),
        ({"student": {"model": "models/student", "lora": {"rank": 4}}}, r"student.lora \(None"),
        ({"seed": 3}, r"seed \(0 → 3\)"),
    ],
)
def test_another_rule_is_named_with_both_values(
    now: dict[str, Any], named: str, tmp_path: Path
) -> None:
    began(tmp_path)
    with pytest.raises(InputError, match=named):
        find_checkpoint(make_recipe(tmp_path, resume=True, **now))


def test_an_adapter_cannot_be_left_out_later(tmp_path: Path) -> None:
    began(tmp_path, student={"model": "models/student", "lora": {"rank": 4}})
    with pytest.raises(InputError, match=r"student\.lora\.rank"):
        find_checkpoint(make_recipe(tmp_path, resume=True))


def test_checkpoints_may_move_unless_sampling_runs_ahead(tmp_path: Path) -> None:
    moved = {"checkpoint": {"every": 7, "keep": 5}}
    began(tmp_path / "synchronous")
    assert find_checkpoint(make_recipe(tmp_path / "synchronous", resume=True, **moved))
    ahead = {"rollouts": {"max_staleness": 1}}
    began(tmp_path / "ahead", **ahead)
    with pytest.raises(InputError, match=r"checkpoint.every \(50 → 7\)"):
        find_checkpoint(make_recipe(tmp_path / "ahead", resume=True, **ahead, **moved))
    kept = {"checkpoint": {"keep": 5}}
    assert find_checkpoint(make_recipe(tmp_path / "ahead", resume=True, **ahead, **kept))


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(InputError, match="already holds a run"):
        find_checkpoint(make_recipe(tmp_path))


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("")
    with pytest.raises(InputError, match="is a file"):
        find_checkpoint(make_recipe(file))
