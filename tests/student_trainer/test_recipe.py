from pathlib import Path

import pytest

from counterhint.errors import InputError
from student_trainer.recipe import load_recipe

RECIPE = """
run_dir: runs/x
steps: 5
task: {kind: chain}
student: {model: models/student}
method: {kind: rlcsd, tau: 0.1}
models: {kind: tiny}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_arguments_beat_environment_beats_file(recipe: Path) -> None:
    environment = {"COUNTERHINT_TRAIN_STEPS": "7", "COUNTERHINT_TRAIN_OPTIMIZER__LR": "0.25"}
    loaded = load_recipe(recipe, ["steps=9"], environment)
    assert (loaded.steps, loaded.optimizer.lr) == (9, 0.25)
    assert load_recipe(recipe, [], {}).steps == 5


def test_another_kind_drops_the_keys_of_the_old_one(recipe: Path) -> None:
    assert load_recipe(recipe, ["method.kind=grpo"], {}).method.kind == "grpo"
    kept = load_recipe(recipe, ["method.kind=rlcsd"], {}).method
    assert kept.kind == "rlcsd"
    assert kept.tau == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", r"optimizer\.lrr: no such key"),
        ("method.tau=-1", r"method\.tau: .*greater than 0 \(got -1\)"),
        ("method.kind=rlcds", r"method: .*'rlcds' found.*'grpo', 'rlcsd'"),
        ("steps", "'steps' is not key=value"),
        ("steps.more=1", "steps is a value, not a section"),
        ("steps=[", "is not YAML"),
    ],
)
def test_each_mistake_names_the_key_and_the_remedy(
    recipe: Path, override: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(recipe, [override], {})


def test_missing_keys_and_files(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(InputError, match="no recipe"):
        load_recipe(path, [], {})
    path.write_text("steps: 3")
    with pytest.raises(InputError, match=r"run_dir: missing \(add it"):
        load_recipe(path, [], {})
    path.write_text("- a list")
    with pytest.raises(InputError, match="key: value"):
        load_recipe(path, [], {})


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_along_can_be_read(path: Path) -> None:
    assert load_recipe(path, [], {}).steps > 0
