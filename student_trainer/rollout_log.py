"""`rollouts.jsonl`: some rollouts of some steps with their signal, for the report."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from pydantic import Field

from counterhint import contrast, one_sided
from student_trainer.batches import BatchConfig, Row, micro_batches
from student_trainer.config import Config
from student_trainer.groups import Group
from student_trainer.hints import RolloutHints
from student_trainer.losses import Method
from student_trainer.losses.rlcsd import Rlcsd
from student_trainer.models import Student


class RolloutLogConfig(Config):
    """Which rollouts are kept for the report."""

    every: int = Field(10, ge=1)
    """Steps between two steps whose rollouts are kept; the first and the last always are."""
    rollouts: int = Field(4, ge=0)
    """Rollouts that are kept of such a step, right and wrong ones by turns."""
    note: str | None = None
    """What readers must know of the signal; the report shows it beside it."""


def logged_rollouts(
    step: int,
    entries: Sequence[tuple[Group, int, RolloutHints, Row]],
    student: Student,
    method: Method,
    count: int,
) -> Iterator[dict[str, Any]]:
    """Rows of `rollouts.jsonl` for up to `count` hinted rollouts of a step.

    Args:
        step: the step.
        entries: group, index in the group, hints and training row of each hinted rollout.
        student: whose tokenizer names the tokens.
        method: says what the signal does to the advantages.
        count: most rows.
    """
    right = [entry for entry in entries if entry[0].rollouts[entry[1]].verdict.correct]
    wrong = [entry for entry in entries if not entry[0].rollouts[entry[1]].verdict.correct]
    by_turns = [entry for pair in zip_longest(right, wrong) for entry in pair if entry]
    for group, index, hints, row in by_turns[:count]:
        rollout, scores = group.rollouts[index], row.teacher
        if scores is None or scores.sampled is None or scores.wrong is None:
            continue
        e_ctr = contrast(scores.sampled, scores.wrong)
        entry: dict[str, Any] = {
            "step": step,
            "problem_id": group.problem.id,
            "problem": group.problem.text,
            "answer": group.problem.answer,
            "response_answer": rollout.verdict.answer,
            "correct": rollout.verdict.correct,
            "advantage": row.advantage,
            "tokens": [student.tokenizer.decode([int(i)]) for i in rollout.token_ids],
            "token_ids": rollout.token_ids.tolist(),
            "student": _rounded(rollout.log_probs),
            "correct_hint": _rounded(scores.sampled),
            "wrong_hints": [_rounded(branch) for branch in scores.wrong],
            "e_c": _rounded(one_sided(scores.sampled, rollout.log_probs)),
            "e_ctr": _rounded(e_ctr),
            "hint_texts": {
                "correct": hints.correct.text,
                "wrong": [hint.text for hint in hints.wrong],
            },
        }
        if isinstance(method, Rlcsd):
            (piece,) = micro_batches([row], BatchConfig(), torch.device("cpu"), step=step)
            modulation = method.modulate(piece.targets)
            entry["selected"] = modulation.selected[0].tolist()
            entry["modulated"] = _rounded(modulation.advantages[0].numpy())
        yield entry


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values]
