"""Evaluations of a real, tiny student."""

import json
from pathlib import Path
from typing import Any

import pytest

from counterhint.errors import InputError
from student_trainer.evaluation import EvaluationConfig, Evaluator, open_set
from student_trainer.models import Student
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.ranks import Ranks
from student_trainer.rollouts.built_in import BuiltInSampler
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.tasks import ChainTaskConfig
from student_trainer.tasks.base import Task

TASK = ChainTaskConfig(operations=1)


def make_evaluator(student: Student, section: dict[str, Any]) -> Evaluator:
    sampler = BuiltInSampler(student)

    def generator_for(task: Task) -> RolloutGenerator:
        prompts = Prompts(student.tokenizer, PromptConfig(), task.answer_format)
        return RolloutGenerator(student, sampler, task, prompts)

    return Evaluator(
        EvaluationConfig.model_validate(section),
        TASK.build(),
        generator_for,
        max_new_tokens=8,
        max_rows=16,
        ranks=Ranks(),
    )


def test_every_set_is_sampled_as_its_section_says(student: Student) -> None:
    longer = {
        "task": {"kind": "chain", "operations": 2},
        "problems": 2,
        "max_new_tokens": 3,
        "pass_at": [],
    }
    evaluator = make_evaluator(
        student, {"problems": 5, "samples": 4, "pass_at": [1, 2], "sets": {"longer": longer}}
    )
    seen: list[tuple[str, int, int]] = []
    outcome = evaluator.run(3, lambda *state: seen.append(state))
    assert {name: len(found.problems) for name, found in outcome.sets.items()} == {
        "heldout": 5,
        "longer": 2,
    }
    assert outcome.heldout.samples == 20
    assert set(outcome.heldout.pass_at_k) == {1, 2}
    assert outcome.heldout.entropy is not None
    assert outcome.heldout.length > 3 >= outcome.sets["longer"].length
    assert {("evaluating heldout", 5, 5), ("evaluating longer", 2, 2)} <= set(seen)
    assert evaluator.run(3) == outcome
    assert evaluator.run(4) != outcome


def test_a_finite_set_is_taken_whole(tmp_path: Path) -> None:
    file = tmp_path / "three.jsonl"
    rows = [{"problem": f"What is {number}?", "answer": str(number)} for number in range(3)]
    file.write_text("\n".join(map(json.dumps, rows)))
    files = {"kind": "files", "heldout": str(file), "verifier": "boxed_math"}
    section = {
        "problems": 2,
        "sets": {"all": {"task": files}, "two": {"task": files, "problems": 2}},
    }
    config = EvaluationConfig.model_validate(section)
    found = {name: open_set(config, name, TASK.build())[1] for name in config.names}
    assert {name: len(problems) for name, problems in found.items()} == {
        "heldout": 2,
        "all": 3,
        "two": 2,
    }


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "chain"}, r"evaluation\.sets\.x: problems is null, .* but the task has no end"),
        (
            {"kind": "files", "heldout": "nowhere.jsonl", "verifier": "boxed_math"},
            r"evaluation\.sets\.x: nowhere\.jsonl does not exist",
        ),
    ],
)
def test_sets_of_no_use_are_named(task: dict[str, Any], message: str) -> None:
    config = EvaluationConfig.model_validate({"problems": 1, "sets": {"x": {"task": task}}})
    with pytest.raises(InputError, match=message):
        open_set(config, "x", TASK.build())
