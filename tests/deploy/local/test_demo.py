import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from counterhint.errors import InputError
from deploy.local.cli import Demo
from deploy.local.demo import (
    MARKER,
    SUMMARY_KEYS,
    DemoPlan,
    StageFailed,
    background_services,
    is_serving,
    models_command,
    prepare_run_folder,
    run_demo,
    train_command,
    write_summary,
)


@pytest.fixture
def plan(tmp_path: Path) -> DemoPlan:
    recipe = tmp_path / "my.yaml"
    recipe.write_text("seed: 0\n")
    return DemoPlan(
        recipe, tmp_path / "run", method="rlcsd", teacher="self", steps=None, seed=3, threads=1
    )


def test_a_new_run_folder_is_recognisable_at_once(plan: DemoPlan) -> None:
    prepare_run_folder(plan)
    assert [file.name for file in plan.out.iterdir()] == [MARKER]


def test_an_earlier_demo_is_replaced(plan: DemoPlan) -> None:
    prepare_run_folder(plan)
    (plan.out / "metrics.jsonl").touch()
    (plan.out / "logs").mkdir()
    prepare_run_folder(plan)
    assert [file.name for file in plan.out.iterdir()] == [MARKER]


def test_an_empty_folder_is_taken_and_another_is_not(plan: DemoPlan) -> None:
    plan.out.mkdir()
    prepare_run_folder(plan)
    (plan.out / MARKER).rename(plan.out / "recipe.yaml")  # a run, but no demo's
    with pytest.raises(InputError, match="no demo made it"):
        prepare_run_folder(plan)
    assert (plan.out / "recipe.yaml").exists()


@pytest.mark.parametrize("what", ["the recipe", "the working directory", "your home"])
@pytest.mark.parametrize("inside", [".", "folder"])
def test_a_folder_around_what_is_needed_is_not_replaced(
    what: str, inside: str, plan: DemoPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_run_folder(plan)  # with a marker
    folder = plan.out / inside
    folder.mkdir(exist_ok=True)
    letter = folder / "letter.txt"
    letter.touch()
    if what == "the recipe":
        plan = dataclasses.replace(plan, recipe=letter)
    elif what == "the working directory":
        monkeypatch.chdir(folder)
    else:
        monkeypatch.setenv("HOME", str(folder))
    with pytest.raises(InputError, match=f"{what} .* lies in it"):
        prepare_run_folder(plan)
    assert letter.exists()


def test_a_file_is_no_run_folder(plan: DemoPlan) -> None:
    plan.out.touch()
    with pytest.raises(InputError, match="is a file"):
        prepare_run_folder(plan)


def test_a_recipe_that_is_not_there_is_bad_input(plan: DemoPlan) -> None:
    plan.recipe.unlink()
    with pytest.raises(InputError, match=r"no recipe .*my\.yaml"):
        prepare_run_folder(plan)
    assert not plan.out.exists()


def test_without_a_redis_server_nothing_is_started(
    plan: DemoPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    terminal = io.StringIO()
    with pytest.raises(InputError, match="no redis-server"):
        run_demo(plan, Console(file=terminal))
    assert terminal.getvalue() == ""
    assert not plan.out.exists()


@pytest.mark.parametrize(
    ("changes", "overrides"),
    [
        ({}, {"method.kind": "rlcsd", "seed": "3"}),
        ({"method": "grpo", "steps": 7}, {"method.kind": "grpo", "steps": "7"}),
        ({"teacher": "large"}, {"teacher_refresh.kind": "fixed"}),
    ],
)
def test_the_plan_becomes_overrides_of_the_recipe(
    changes: dict[str, Any], overrides: dict[str, str], plan: DemoPlan, tmp_path: Path
) -> None:
    command = train_command(dataclasses.replace(plan, **changes), tmp_path)
    assert command[3:5] == ["train", str(plan.recipe)]
    given = dict(word.split("=", 1) for word in command[5:])
    assert overrides.items() <= given.items()
    assert ("steps" in given) == ("steps" in changes)
    assert ("teacher_refresh.kind" in given) == ("teacher" in changes)


def test_the_larger_teacher_is_made_only_when_it_is_used(plan: DemoPlan, tmp_path: Path) -> None:
    tmp_path = tmp_path / "sockets"
    for teacher, model in (("self", "student"), ("large", "teacher")):
        chosen = dataclasses.replace(plan, teacher=teacher, out=plan.out / teacher)  # type: ignore[arg-type]
        chosen.out.mkdir(parents=True)
        assert ("--only" in models_command(chosen)) == (teacher == "self")
        served = next(one for one in background_services(chosen, tmp_path) if one.name == "teacher")
        words = list(served.command)
        assert words[words.index("--model") + 1] == str(chosen.out / "models" / model)


def test_nobody_serves_at_an_unused_address(tmp_path: Path) -> None:
    assert not is_serving(f"unix://{tmp_path / 'nobody.sock'}")


def test_the_launchers_stages_join_the_trainers(tmp_path: Path) -> None:
    summary = dict.fromkeys(SUMMARY_KEYS, 1) | {"seconds_by_stage": {"sampling": 2.0}}
    completed = write_summary(tmp_path, summary, {"models": 10.0, "training": 5.0})
    assert completed == json.loads((tmp_path / "summary.json").read_text())
    assert completed["seconds_by_stage"] == {
        "models": 10.0,
        "training": 5.0,
        "training/sampling": 2.0,
    }
    assert completed["seconds_total"] == 15.0


def test_a_summary_that_lacks_a_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="lacks steps, heldout_accuracy_before"):
        write_summary(tmp_path, {"method": "rlcsd", "seconds_by_stage": {}}, {})


def test_the_default_is_the_method_with_its_own_weights_as_teacher() -> None:
    command = Demo()
    assert (command.model, command.method, command.teacher) == ("tiny", "rlcsd", "self")
    assert command.out == Path("runs/demo")
