"""`rollouts.jsonl`: some rollouts of some steps with their signals, for the report."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerBase

from counterhint import contrast, one_sided
from counterhint.tensors import TokenIds
from counterhint.token_classes import TokenClasses
from student_trainer.batches import BatchConfig, Row, micro_batches
from student_trainer.config import Config
from student_trainer.hints import RolloutHints
from student_trainer.losses import Method, StudentLogProbs
from student_trainer.tasks.base import Problem


class RolloutLogConfig(Config):
    """Which rollouts are kept for the report."""

    every: int = Field(10, ge=1)
    """Steps between two steps whose rollouts are kept; the first and the last always are."""
    rollouts: int = Field(4, ge=0)
    """Rollouts that are kept of such a step, right and wrong ones by turns."""
    note: str | None = None
    """What readers must know of the signal; the report shows it beside it."""


@dataclass(frozen=True, slots=True)
class TrainedRollout:
    """A rollout that a step trains on."""

    problem: Problem
    """What it answers."""
    hints: RolloutHints | None
    """Its hints, where the method reads any."""
    row: Row
    """Its training row."""


def logged_rollouts(
    step: int,
    rollouts: Sequence[TrainedRollout],
    texts_of: Callable[[TokenIds], list[str]],
    classes: TokenClasses,
    method: Method,
    count: int,
) -> Iterator[dict[str, Any]]:
    """Rows of `rollouts.jsonl` for up to `count` rollouts of a step, scored ones first.

    Every row has the text of the rollout and its advantage. Signals stand in it as far as the
    method has them: `e_c` with the teacher's log probs, `e_ctr` with those under wrong hints,
    `modulated` and `selected` where the signal changes advantages. A token without a number has
    None.

    Args:
        step: the step, from 1.
        rollouts: that the step trains on.
        texts_of: the texts of a response's tokens, see `streamed_texts`.
        classes: of the vocabulary.
        method: says what the signal does to the advantages.
        count: most rows.
    """
    for rollout in _chosen(rollouts)[:count]:
        problem, row = rollout.problem, rollout.row
        sampled = row.rollout
        entry: dict[str, Any] = {
            "step": step,
            "problem_id": problem.id,
            "problem": problem.text,
            "answer": problem.answer,
            "response_answer": sampled.verdict.answer,
            "correct": sampled.verdict.correct,
            "advantage": row.advantage,
            "tokens": texts_of(sampled.token_ids),
            "token_ids": sampled.token_ids.tolist(),
            "token_classes": [classes.names[one] for one in classes.of(sampled.token_ids)],
            "student": _rounded(row.old_log_probs),
        }
        yield entry | _signals(row) | _advantages(row, method, step) | _hints(rollout.hints)


def streamed_texts(tokenizer: PreTrainedTokenizerBase, token_ids: TokenIds) -> list[str]:
    """Each token's share of the decoded text, blanks between words included.

    One after another they are the text. Of a character that is split over tokens, the last one has
    it and the others are empty. A tokenizer without a tokenizer.json decodes each token by itself.
    """
    if not tokenizer.is_fast:
        return [str(text) for text in tokenizer.batch_decode([[one] for one in token_ids.tolist()])]
    stream = DecodeStream(skip_special_tokens=False)
    return [stream.step(tokenizer.backend_tokenizer, token) or "" for token in token_ids.tolist()]


def _chosen(rollouts: Sequence[TrainedRollout]) -> list[TrainedRollout]:
    """Right and wrong ones by turns, those with the teacher's scores before those without."""
    order: list[TrainedRollout] = []
    for scored in (True, False):
        part = [one for one in rollouts if (one.row.teacher is not None) is scored]
        right = [one for one in part if one.row.rollout.verdict.correct]
        wrong = [one for one in part if not one.row.rollout.verdict.correct]
        order += [one for pair in zip_longest(right, wrong) for one in pair if one is not None]
    return order


def _signals(row: Row) -> dict[str, Any]:
    scores = row.teacher
    if scores is None or scores.sampled is None:
        return {}
    found: dict[str, Any] = {
        "correct_hint": _rounded(scores.sampled),
        "e_c": _rounded(one_sided(scores.sampled, row.old_log_probs)),
    }
    if scores.wrong is not None and len(scores.wrong):
        found["wrong_hints"] = [_rounded(branch) for branch in scores.wrong]
        found["e_ctr"] = _rounded(contrast(scores.sampled, scores.wrong))
    return found


def _advantages(row: Row, method: Method, step: int) -> dict[str, Any]:
    if row.teacher is None:
        return {}
    (piece,) = micro_batches([row], BatchConfig(), torch.device("cpu"), step=step)
    student = StudentLogProbs(torch.from_numpy(row.old_log_probs)[None])
    made = method.token_advantages(student, piece.targets)
    if made is None:
        return {}
    return {
        "selected": made.selected[0].tolist(),
        "modulated": _rounded(made.advantages[0].numpy()),
    }


def _hints(hints: RolloutHints | None) -> dict[str, Any]:
    if hints is None:
        return {}
    correct, wrong = hints.correct, hints.wrong
    return {
        "hint_texts": {"correct": correct.text, "wrong": [hint.text for hint in wrong]},
        "hint_answers": {"correct": correct.answer, "wrong": [hint.answer for hint in wrong]},
    }


def _rounded(values: NDArray[np.floating]) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 5) for value in values]
