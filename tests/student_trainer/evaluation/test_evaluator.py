"""Evaluations of a real, tiny student."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from counterhint.errors import InputError
from student_trainer.evaluation import EvaluationConfig, Evaluations, Evaluator, open_set
from student_trainer.models import Student
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.ranks import Ranks
from student_trainer.rollouts.built_in import BuiltInSampler
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.tasks import ChainTaskConfig
from student_trainer.tasks.base import Task

T = TypeVar("T")
TASK = ChainTaskConfig(operations=1)


class ThreadRanks(Ranks):
    """Ranks that are threads of this process."""

    def __init__(self, rank: int, values: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank, self.count = rank, len(values)
        self._values, self._barrier = values, barrier

    def gather(self, value: T) -> list[T]:
        self._values[self.rank] = value
        self._barrier.wait(60)
        gathered = list(self._values)
        self._barrier.wait(60)
        return gathered


def make_evaluator(
    student: Student, section: dict[str, Any], ranks: Ranks | None = None
) -> Evaluator:
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
        ranks=ranks or Ranks(),
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


def test_any_number_of_ranks_finds_the_same(student: Student) -> None:
    # At temperature 0 nothing is drawn, so the sampler's one stream of draws makes no difference.
    section = {"problems": 5, "temperature": 0}
    alone = make_evaluator(student, section).run(0)
    values: list[Any] = [None] * 8  # three of them have no problem to sample
    barrier = threading.Barrier(len(values))

    def evaluate(rank: int) -> Evaluations:
        return make_evaluator(student, section, ThreadRanks(rank, values, barrier)).run(0)

    with ThreadPoolExecutor(len(values)) as threads:
        together = list(threads.map(evaluate, range(len(values))))
    assert all(found == together[0] for found in together)

    def counts(evaluations: Evaluations) -> list[tuple[str, int, int]]:
        return [(found.id, found.correct, found.tokens) for found in evaluations.heldout.problems]

    assert counts(together[0]) == counts(alone)


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
