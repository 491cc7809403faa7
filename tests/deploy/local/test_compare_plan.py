import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from counterhint.errors import InputError
from deploy.local.cli import Compare
from deploy.local.compare_plan import ComparePlan, Run, plan_comparison


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text("seed: 0\n")
    path = tmp_path / "my.yaml"
    path.write_text("include: [base.yaml]\nsteps: 4\n")
    return path


def plan_of(recipe: Path, methods: Sequence[str], *settings: str, **more: Any) -> ComparePlan:
    arguments: dict[str, Any] = {"steps": None, "teacher": None, "seeds": [0, 1], "parallel": 1}
    return plan_comparison(
        recipe=recipe,
        out=recipe.parent / "out",
        methods=methods,
        settings=settings,
        **(arguments | more),
    )


def settings_of(plan: ComparePlan, method: str) -> list[str]:
    return next(run for run in plan.runs if run.training.method == method).training.overrides


def finish(run: Run) -> None:
    """Leaves behind what a run that ended does."""
    run.prepare()
    (run.folder / "checkpoints").mkdir()
    (run.folder / "summary.json").write_text("{}")


def test_every_method_runs_with_every_seed_in_a_folder_of_its_own(recipe: Path) -> None:
    plan = plan_of(recipe, ["grpo", "rlcsd"])
    names = ["grpo-seed-0", "grpo-seed-1", "rlcsd-seed-0", "rlcsd-seed-1"]
    assert [run.name for run in plan.runs] == names
    assert len({run.folder for run in plan.runs}) == 4
    assert all("metrics.signals=true" in run.training.overrides for run in plan.runs)


def test_only_the_teachers_that_are_needed_are_served(recipe: Path) -> None:
    def served(methods: Sequence[str], **more: Any) -> list[str]:
        return [teacher.name for teacher in plan_of(recipe, methods, **more).teachers]

    assert served(["grpo", "rlcsd"]) == ["self"]
    assert served(["rlcsd", "opd"]) == ["large", "self"]
    assert served(["rlcsd", "opd"], teacher="large") == ["large"]


def test_a_setting_is_for_all_methods_or_for_one(recipe: Path) -> None:
    plan = plan_of(recipe, ["grpo", "opsd"], "steps=7", "opsd:optimizer.lr=1e-3", "run=a:b")
    for method in ("grpo", "opsd"):
        assert {"steps=7", "run=a:b"} <= set(settings_of(plan, method))
    assert "optimizer.lr=1e-3" in settings_of(plan, "opsd")
    assert "optimizer.lr=1e-3" not in settings_of(plan, "grpo")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("sdpo:steps=7", "'sdpo' is not among the methods of this comparison, grpo, opsd"),
        ("steps", "give key=value or METHOD:key=value"),
        ("opsd:=7", "give key=value or METHOD:key=value"),
    ],
)
def test_a_setting_that_fits_nothing_is_refused(setting: str, reason: str, recipe: Path) -> None:
    with pytest.raises(InputError, match=reason):
        plan_of(recipe, ["grpo", "opsd"], setting)


def test_an_unknown_method_or_recipe_is_refused_before_anything_is_made(recipe: Path) -> None:
    with pytest.raises(InputError, match="no method 'ppo': choose among grpo, opd"):
        Compare(recipe=recipe, methods=["grpo,ppo"]).run()
    with pytest.raises(InputError, match="no recipe"):
        plan_of(recipe.with_name("nowhere.yaml"), ["grpo"])
    assert not (recipe.parent / "out").exists()


def test_a_run_that_ended_is_done_until_its_settings_change(recipe: Path) -> None:
    run = plan_of(recipe, ["grpo"]).runs[0]
    assert not run.is_done()
    finish(run)
    assert run.is_done()
    assert not plan_of(recipe, ["grpo"], "optimizer.lr=1e-3").runs[0].is_done()
    (recipe.parent / "base.yaml").write_text("seed: 1\n")  # a file that the recipe includes
    assert not run.is_done()


def test_an_unfinished_run_goes_on_and_one_with_other_settings_starts_over(recipe: Path) -> None:
    run = plan_of(recipe, ["grpo"]).runs[0]
    assert run.prepare() == "resume=false"
    (run.folder / "checkpoints").mkdir()
    assert run.prepare() == "resume=true"
    other = plan_of(recipe, ["grpo"], "optimizer.lr=1e-3").runs[0]
    assert other.prepare() == "resume=false"
    assert [file.name for file in run.folder.iterdir()] == ["compare.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("a: [", "is not YAML"), ("- a", "must hold"), ("include: [x.yaml]", r"no file .*x\.yaml")],
)
def test_a_recipe_that_cannot_be_read_is_bad_input(content: str, reason: str, recipe: Path) -> None:
    run = plan_of(recipe, ["grpo"]).runs[0]
    finish(run)
    recipe.write_text(content)
    with pytest.raises(InputError, match=reason):
        run.is_done()


def test_settings_of_a_run_are_json(recipe: Path) -> None:
    run = plan_of(recipe, ["opsd"], teacher="large").runs[0]
    assert json.loads(json.dumps(run.settings)) == run.settings
    assert run.settings["teacher"] == "large"
    assert len(run.settings["files"]) == 3  # the recipe, what it includes, the method's file
