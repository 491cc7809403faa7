"""Groups made by hand, in the words of `tests.tiny_models.write_tokenizer`."""

from collections.abc import Sequence

import numpy as np

from student_trainer.groups import Group, Rollout
from student_trainer.losses import TeacherNeeds
from student_trainer.tasks.base import Problem, Verdict

NEEDS = TeacherNeeds(reads="both_hints", sampled=True)
"""What `rlcsd` needs."""


def make_rollout(
    correct: bool, answer: str | None = "7", tokens: Sequence[int] = (5, 6)
) -> Rollout:
    return Rollout(
        token_ids=np.array(tokens, dtype=np.int32),
        log_probs=np.full(len(tokens), -0.5, dtype=np.float32),
        entropies=np.full(len(tokens), 0.7, dtype=np.float32),
        top_k_ids=None,
        finished=True,
        revision=0,
        text=" ".join(f"w{token}" for token in tokens),
        verdict=Verdict(correct, answer),
    )


def make_group(verdicts: str, solution: str | None = None) -> Group:
    """A group by a word of `r` (right), `w` (wrong) and `n` (wrong, without an answer)."""
    rollouts = tuple(
        make_rollout(letter == "r", None if letter == "n" else letter, (5, 10 + index, 4))
        for index, letter in enumerate(verdicts)
    )
    problem = Problem("p", "w7 w8", "w9", solution=solution)
    return Group(problem, np.array([1, 2], dtype=np.int32), rollouts)
