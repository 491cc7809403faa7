"""Which hints each rollout of a group is scored under.

A rollout's correct hint is a verified sibling (or the data set's own solution), its wrong hints are
incorrect siblings that hold a final answer. A rollout is never its own hint, on either side
(RLCSD, arXiv 2606.11709); nor is a sibling with the very same text, which would show the teacher
the response that it is about to read.
"""

import random
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.groups import Group, Rollout
from student_trainer.losses import TeacherNeeds


class HintConfig(Config):
    """How hints are chosen."""

    correct: Literal["self_rollout", "gt_cot"] = "self_rollout"
    """Where correct hints come from: a verified sibling, or the data set's own solution."""
    max_wrong: int = Field(4, ge=1)
    """K: most wrong hints for a rollout."""
    without_hint: Literal["drop", "plain"] = "drop"
    """A rollout without a legal hint is left out, or trained by GRPO alone."""
    max_tokens: int | None = Field(None, ge=0)
    """Most tokens of a hint's solution text; None bounds it by the teacher's context alone."""
    too_long: Literal["shorten", "drop", "error"] = "shorten"
    """What happens when hints are above `max_tokens`, or the teacher's context cannot hold them:
    all hints of the group are cut to the same number of tokens; or rollouts with such a hint count
    as without hints; or the run ends."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A solution shown to the teacher."""

    text: str
    """The solution's text."""
    answer: str
    """Its final answer."""


@dataclass(frozen=True, slots=True)
class RolloutHints:
    """The hints of one rollout: all that the method needs, or there is no `RolloutHints`."""

    correct: Hint
    """The correct hint."""
    wrong: tuple[Hint, ...]
    """1 to K wrong hints; none where the method reads the correct hint alone."""


def choose_hints(
    group: Group, config: HintConfig, needs: TeacherNeeds, random_source: random.Random
) -> tuple[RolloutHints | None, ...]:
    """The hints of each rollout of a group; None where one that the method needs has no legal one.

    A method that needs no wrong hints leaves no rollout out for want of them.

    Args:
        group: the group.
        config: how hints are chosen.
        needs: which hints the method reads, and how many wrong ones at most.
        random_source: decides every draw.

    Raises:
        InputError: `gt_cot`, but the problem has no solution.
    """
    if needs.reads not in ("correct_hint", "both_hints"):
        return (None,) * len(group.rollouts)
    if config.correct == "gt_cot" and group.problem.solution is None:
        raise InputError(
            f"hints.correct is gt_cot, but problem {group.problem.id} has no solution: add a "
            "`solution` to the data, or use self_rollout"
        )
    most_wrong = 0
    if needs.reads == "both_hints":
        most_wrong = min(config.max_wrong, needs.wrong_hints or config.max_wrong)
    return tuple(
        _hints_of(rollout, group, config, most_wrong, random_source) for rollout in group.rollouts
    )


def _hints_of(
    rollout: Rollout,
    group: Group,
    config: HintConfig,
    most_wrong: int,
    random_source: random.Random,
) -> RolloutHints | None:
    others = [other for other in group.rollouts if other.text != rollout.text]
    wrong = [
        Hint(other.text, other.verdict.answer)
        for other in others
        if not other.verdict.correct and other.verdict.answer is not None
    ]
    if config.correct == "gt_cot":
        solution = group.problem.solution or ""
        right = [Hint(solution, group.problem.answer)] if solution != rollout.text else []
    else:
        right = [
            Hint(other.text, other.verdict.answer or group.problem.answer)
            for other in others
            if other.verdict.correct
        ]
    if not right or (most_wrong and not wrong):
        return None
    return RolloutHints(
        random_source.choice(right),
        tuple(random_source.sample(wrong, min(most_wrong, len(wrong)))),
    )
