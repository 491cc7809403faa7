"""The training command's arguments, up to the recipe that it would train by."""

from pathlib import Path
from typing import ClassVar

import pytest

from counterhint.command_line import EXIT_DONE, run_command
from student_trainer.cli import Train
from student_trainer.recipe import Recipe, load_recipe

RECIPE = """
run_dir: runs/x
steps: 5
task: {kind: chain}
student: {model: models/student}
method: {kind: rlcsd}
"""


class Load(Train):
    """Loads the recipe as training does, and ends there."""

    loaded: ClassVar[list[Recipe]] = []

    def run(self) -> int:
        Load.loaded.append(load_recipe(self.recipe, self.overrides, {}))
        return EXIT_DONE


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def load(recipe: Path, *overrides: str) -> Recipe:
    assert run_command(Load, "counterhint train", [str(recipe), *overrides]) == EXIT_DONE
    return Load.loaded.pop()


def test_without_overrides_the_recipe_holds(recipe: Path) -> None:
    assert load(recipe) == load_recipe(recipe, [], {})


def test_an_override_may_be_a_list_or_a_section(recipe: Path) -> None:
    task = "task={kind: files, train: a, heldout: b, verifier: boxed_math}"
    loaded = load(recipe, "optimizer.betas=[0.9,0.95]", task)
    assert loaded.optimizer.betas == (0.9, 0.95)
    assert loaded.task.model_dump(include={"train", "heldout"}) == {
        "train": Path("a"),
        "heldout": Path("b"),
    }


def test_the_help_shows_no_internals(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(Train, "counterhint train", ["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "key=value" in text
    assert "default factory" not in text
