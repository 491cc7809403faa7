import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from counterhint.errors import InputError
from deploy.local.cli import Demo
from deploy.local.demo import SUMMARY_KEYS, DemoPlan, run_demo, write_summary
from deploy.local.stages import StageFailed


@pytest.fixture
def plan(tmp_path: Path) -> DemoPlan:
    recipe = tmp_path / "my.yaml"
    recipe.write_text("seed: 0\n")
    return DemoPlan(
        recipe,
        tmp_path / "run",
        method=None,
        teacher="self",
        steps=None,
        seed=3,
        settings=[],
        threads=1,
    )


def test_a_recipe_that_is_not_there_is_bad_input(plan: DemoPlan) -> None:
    plan.recipe.unlink()
    with pytest.raises(InputError, match=r"no recipe .*my\.yaml"):
        run_demo(plan, Console(file=io.StringIO()))
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


def test_the_default_is_the_recipes_method_with_its_own_weights_as_teacher() -> None:
    command = Demo()
    assert (command.model, command.method, command.teacher) == ("tiny", None, None)
    assert command.out == Path("runs/demo")
