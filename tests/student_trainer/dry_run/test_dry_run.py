"""Dry runs of a tiny student's recipe, each with one mistake."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from counterhint import TeacherInfo
from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE, run_command
from student_trainer.cli import Train
from student_trainer.dry_run import Check, Checklist, dry_run
from student_trainer.models import Student
from tests.counterhint.examples import TEACHER
from tests.counterhint.scripted_server import ScriptedService, serving
from tests.student_trainer.paper_models import SHAPES, write_model_folder


@pytest.fixture
def recipe(tmp_path: Path, student_folder: Path) -> Path:
    template = tmp_path / "hint.txt"
    template.write_text("{{problem}} reference {{hint}} end")
    content: dict[str, Any] = {
        "run_dir": str(tmp_path / "run"),
        "steps": 4,
        "task": {"kind": "chain", "operations": 2},
        "student": {"model": str(student_folder), "device": "cpu"},
        "prompts": {"hint_template": str(template)},
        "rollouts": {"prompts_per_step": 2, "group_size": 4, "max_new_tokens": 40},
        "method": {"kind": "rlcsd"},
        "scoring": {"address": "unix:///nowhere", "connect_timeout": 0.01},
        "evaluation": {
            "problems": 8,
            "sets": {"longer": {"task": {"kind": "chain", "operations": 3}, "problems": 4}},
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def levels(checks: Checklist) -> dict[str, str]:
    """The checks that found something, by name."""
    return {check.name: check.level for check in checks.checks if check.level != "ok"}


def problems(checks: Checklist) -> list[Check]:
    return [check for check in checks.checks if check.level == "problem"]


def text(checks: Checklist, name: str) -> str:
    return next(check.text for check in checks.checks if check.name == name)


def test_a_recipe_that_works(recipe: Path) -> None:
    checks = dry_run(recipe, [], {})
    assert levels(checks) == {"teacher": "warning"}
    assert checks.passed
    assert "4 problems × 1 samples" in text(checks, "evaluation of longer")
    assert "8 rollouts a step, 1 update(s) of 8" in text(checks, "batch")
    assert not (recipe.parent / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "name", "message"),
    [
        (["optimizer.lrr=1"], "recipe", r"optimizer\.lrr: no such key"),
        (["student.model=nowhere"], "model", "nowhere holds no model"),
        (["student.device=cuda:7"], "device", "cuda:7 cannot be used"),
        (["task.kind=files", "task.verifier=boxed_math", "task.train=a.jsonl",
          "task.heldout_fraction=0.5"], "task", r"a\.jsonl does not exist"),
        (["evaluation.sets.longer.problems=100000"], "evaluation of longer", "100000 held-out"),
        (["rollouts.max_new_tokens=4000", "evaluation.max_new_tokens=40"], "prompts",
         "the student takes 2,048: lower"),
        (["evaluation.sets.longer.max_new_tokens=4000"], "prompts of longer", "takes 2,048"),
        (["prompts.hint_template=nowhere.txt"], "prompts", "no hint template"),
        (["method.kind=sdpo", "method.top_k_distill=500"], "support",
         r"500 most probable.*method\.top_k_distill=\d+ or less"),
        (["metrics.token_classes=nowhere.yaml"], "metrics", "No such file"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_named_problem(
    recipe: Path, overrides: list[str], name: str, message: str
) -> None:
    checks = dry_run(recipe, overrides, {})
    found = problems(checks)
    assert [check.name for check in found] == [name]
    assert checks.as_json()["passed"] is False
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[0].text)


def test_hints_from_the_data_need_solutions(recipe: Path, tmp_path: Path) -> None:
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(f'{{"problem": "{n} (1) +5 .", "answer": "2"}}\n' for n in range(10)))
    overrides = ["task.kind=files", "task.verifier=boxed_math", f"task.train={data}",
                 "task.heldout_fraction=0.5", "evaluation.problems=1"]  # fmt: skip
    checks = dry_run(recipe, [*overrides, "hints.correct=gt_cot"], {})
    assert "have no solution" in text(checks, "hints")
    assert "hints" in [check.name for check in problems(checks)]


def test_an_absent_model_hides_nothing_that_can_be_checked_without_it(recipe: Path) -> None:
    overrides = ["student.model=nowhere", "evaluation.sets.longer.problems=100000"]
    checks = dry_run(recipe, overrides, {})
    assert levels(checks) == {
        "evaluation of longer": "problem",
        "model": "problem",
        "teacher": "warning",
    }


def test_a_task_that_cannot_be_read_hides_no_other_set(recipe: Path) -> None:
    task = "task={kind: files, train: a.jsonl, heldout: b.jsonl, verifier: boxed_math}"
    checks = dry_run(recipe, [task, "evaluation.sets.longer.problems=100000"], {})
    assert levels(checks) == {
        "task": "problem",
        "evaluation of longer": "problem",
        "teacher": "warning",
    }


def test_a_run_that_is_there_already_is_not_overwritten(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0}\n')
    assert "already holds a run" in text(dry_run(recipe, [], {}), "run folder")


def test_a_data_file_whose_answers_no_verifier_accepts_is_named(
    recipe: Path, tmp_path: Path
) -> None:
    rows = [{"problem": f"{n} (1) +2 .", "answer": "\\boxed{"} for n in range(3)]
    file = tmp_path / "sums.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    task = f"{{kind: files, train: {file}, heldout: {file}, verifier: boxed_math}}"
    checks = dry_run(recipe, [f"task={task}", "evaluation.problems=2"], {})
    assert levels(checks)["task"] == "problem"  # held-out problems among the training problems
    task = f"{{kind: files, train: {file}, heldout_fraction: 0.5, verifier: boxed_math}}"
    checks = dry_run(recipe, [f"task={task}", "evaluation.problems=1"], {})
    assert "finds no form" in text(checks, "verifier")


def test_what_the_machine_cannot_hold_is_a_warning(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    write_model_folder(folder, SHAPES["Qwen3-8B"])
    checks = dry_run(recipe, [f"student.model={folder}", "prompts.hint_template=neutral"], {})
    found = levels(checks)
    assert found == {"weights": "problem", "memory": "warning", "teacher": "warning"} | (
        {"disk": "warning"} if "disk" in found else {}
    )
    # 8,190,735,360 parameters: weight, gradient and two moments of 4 bytes each.
    assert "weights, gradients and Adam 122.1 GiB" in text(checks, "memory")
    assert "student.lora" in text(checks, "memory")


def test_limits_of_a_teacher_that_answers(
    recipe: Path, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("student_trainer.dry_run.teacher.LONGEST_WAIT", 240)  # a busy machine
    teacher = replace(
        TEACHER, tokenizer_fingerprint=student.fingerprint, max_top_k=8, max_model_len=256
    )

    async def check(teacher: TeacherInfo, *overrides: str) -> Checklist:
        async with serving(ScriptedService(teacher=teacher), tmp_path / "socket") as address:
            here = [f"scoring.address={address}", "scoring.connect_timeout=240"]
            return await asyncio.to_thread(dry_run, recipe, [*here, *overrides], {})

    assert levels(asyncio.run(check(teacher))) == {}
    support = ["method.kind=opsd", "method.top_k_distill=9"]
    (problem,) = problems(asyncio.run(check(teacher, *support)))
    assert (
        "needs the teacher's 9 most probable tokens, but the teacher gives at most 8"
        in problem.text
    )
    long = asyncio.run(check(teacher, "rollouts.max_new_tokens=150"))
    assert levels(long) == {"teacher": "warning"}
    assert "hints.too_long is shorten" in long.checks[-1].text
    (problem,) = problems(asyncio.run(check(replace(teacher, tokenizer_fingerprint="other"))))
    assert "use a teacher with the student's tokenizer" in problem.text


def test_the_command_prints_a_table_or_json(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*arguments: str) -> int:
        return run_command(Train, "counterhint train", [str(recipe), "--dry-run", *arguments])

    assert train() == EXIT_DONE
    assert "0 problem(s), 1 warning(s): the run can start." in capsys.readouterr().out
    assert train("--json", "student.model=nowhere") == EXIT_NEGATIVE
    printed = json.loads(capsys.readouterr().out)
    assert printed["passed"] is False
    assert {"name", "level", "text"} == set(printed["checks"][0])
