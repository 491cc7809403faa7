"""Every recipe of the paper, with the published shapes in place of the models."""

from pathlib import Path

import pytest

from student_trainer.dry_run import dry_run
from student_trainer.recipe import load_recipe
from tests.student_trainer.paper_models import SHAPES, write_model_folder, write_paper_data

PAPER = Path("recipes/paper").absolute()
RECIPES = sorted(PAPER.glob("*-*.yaml"))
METHODS = sorted((PAPER.parent / "methods").glob("*.yaml"))
NOBODY = ["scoring.address=unix:///nowhere", "scoring.connect_timeout=0.01"]
PARAMETERS = {
    "qwen3-1.7b": "1,720,574,976",
    "qwen3-4b": "4,022,468,096",
    "qwen3-8b": "8,190,735,360",
    "olmo-3-7b-think": "7,298,011,136",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    for name, config in SHAPES.items():
        write_model_folder(folder / "models" / name, config)
    write_paper_data(folder / "data" / "paper")
    return folder


def test_there_is_a_recipe_for_each_model_and_task_and_a_file_for_each_method() -> None:
    assert {path.stem for path in RECIPES} == {
        f"{model}-{task}" for model in PARAMETERS for task in ("math", "logic")
    }
    assert {path.stem for path in METHODS} == {
        *("grpo", "rlcsd", "opsd", "sdpo", "srpo", "rlsd", "opsd_ectr", "rlsd_ectr", "opd")
    }


def test_every_method_goes_with_every_recipe() -> None:
    for recipe in RECIPES:
        for method in METHODS:
            loaded = load_recipe(recipe, [f"include={method}"], {})
            assert loaded.method.kind == method.stem


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_only_the_weights_are_missing(
    recipe: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    # Methods differ in what they take from data and teacher, not in what they ask of the model.
    for method in METHODS if "4b" in recipe.stem else [PAPER.parent / "methods" / "rlcsd.yaml"]:
        checks = dry_run(recipe, [f"include={method}", *NOBODY], {})
        found = {check.name: check for check in checks.checks}
        problems = [check.name for check in checks.checks if check.level == "problem"]
        assert problems == ["weights"], checks.as_json()
        assert PARAMETERS[recipe.stem.rpartition("-")[0]] in found["model"].text
        assert found["teacher"].level == ("ok" if method.stem == "grpo" else "warning")


def test_the_logic_task_needs_no_files(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    generated = PAPER / "data" / "logic-generated.yaml"
    # Fewer problems than in the recipe: the larger puzzles take a tenth of a second each.
    fewer = [f"evaluation.sets.kk-{people}.problems=2" for people in (9, 10, 11)]
    overrides = [f"include={generated}", "evaluation.problems=10", *fewer, *NOBODY]
    checks = dry_run(PAPER / "qwen3-1.7b-logic.yaml", overrides, {})
    assert [check.name for check in checks.checks if check.level == "problem"] == ["weights"]
    assert "finds the boxed answer" in next(c.text for c in checks.checks if c.name == "verifier")
