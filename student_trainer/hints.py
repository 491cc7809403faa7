"""Which hints each rollout of a group is scored under.

A rollout's correct hint is a verified sibling (or the data set's own solution), its wrong hints are
incorrect siblings that hold a final answer. A rollout is never its own hint, on either side
(RLCSD, arXiv 2606.11709).
"""

import random
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.groups import Group


class HintConfig(Config):
    """How hints are chosen."""

    correct: Literal["self_rollout", "gt_cot"] = "self_rollout"
    """Where correct hints come from: a verified sibling, or the data set's own solution."""
    max_wrong: int = Field(4, ge=1)
    """K: most wrong hints for a rollout."""
    without_hint: Literal["drop", "plain"] = "drop"
    """A rollout without a legal hint on either side is left out, or trained by GRPO alone."""


@dataclass(frozen=True, slots=True)
class Hint:
    """A solution shown to the teacher."""

    text: str
    """The solution's text."""
    answer: str
    """Its final answer."""


@dataclass(frozen=True, slots=True)
class RolloutHints:
    """The hints of one rollout; both sides are there, or there is no `RolloutHints`."""

    correct: Hint
    """The correct hint."""
    wrong: tuple[Hint, ...]
    """1 to K wrong hints."""


def choose_hints(
    group: Group, config: HintConfig, random_source: random.Random
) -> tuple[RolloutHints | None, ...]:
    """The hints of each rollout of a group; None where either side has no legal one.

    Raises:
        InputError: `gt_cot`, but the problem has no solution.
    """
    if config.correct == "gt_cot" and group.problem.solution is None:
        raise InputError(
            f"hints.correct is gt_cot, but problem {group.problem.id} has no solution: add a "
            "`solution` to the data, or use self_rollout"
        )
    return tuple(
        _hints_of(index, group, config, random_source) for index in range(len(group.rollouts))
    )


def _hints_of(
    index: int, group: Group, config: HintConfig, random_source: random.Random
) -> RolloutHints | None:
    siblings = [rollout for other, rollout in enumerate(group.rollouts) if other != index]
    wrong = [
        Hint(sibling.text, sibling.verdict.answer)
        for sibling in siblings
        if not sibling.verdict.correct and sibling.verdict.answer is not None
    ]
    if config.correct == "gt_cot":
        right = [Hint(group.problem.solution or "", group.problem.answer)]
    else:
        right = [
            Hint(sibling.text, sibling.verdict.answer or group.problem.answer)
            for sibling in siblings
            if sibling.verdict.correct
        ]
    if not right or not wrong:
        return None
    return RolloutHints(
        random_source.choice(right),
        tuple(random_source.sample(wrong, min(config.max_wrong, len(wrong)))),
    )
