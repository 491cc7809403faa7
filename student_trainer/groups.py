"""Rollouts and the groups that they come in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from counterhint.tensors import TokenIds
from student_trainer.tasks.base import Problem, Verdict


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled solution with its verdict."""

    token_ids: TokenIds
    """int32 `[T]`: the response, with its end-of-sequence token if it finished."""
    log_probs: NDArray[np.float32]
    """`[T]`: the sampler's log probs of these tokens."""
    entropies: NDArray[np.float32] | None
    """`[T]`: entropy of the distribution that each token was drawn from, in nats; None where the
    sampler has none."""
    top_k_ids: NDArray[np.int32] | None
    """`[T, k]`: the student's k most probable tokens at each position, best first; None where the
    method has no use for them."""
    finished: bool
    """Whether it ended by itself; False when it ran into the length limit."""
    revision: int
    """Number of the student's weights that drew it: the updates that led to them."""
    text: str
    """The response as text, without special tokens."""
    verdict: Verdict
    """What the verifier says."""

    @property
    def reward(self) -> float:
        """1 if the final answer is right, else 0."""
        return float(self.verdict.correct)


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of one problem."""

    problem: Problem
    """The problem."""
    prompt: TokenIds
    """int32 `[T]`: the student's prompt."""
    rollouts: tuple[Rollout, ...]
    """G rollouts."""

    @property
    def mixed(self) -> bool:
        """Whether it holds right and wrong rollouts, so that there is something to compare."""
        return 0 < sum(rollout.verdict.correct for rollout in self.rollouts) < len(self.rollouts)

    def advantages(self) -> NDArray[np.float64]:
        """Group-relative advantages (r − mean) / (std + 1e-6), sample std; `[G]`."""
        return group_advantages([rollout.reward for rollout in self.rollouts])


def group_advantages(rewards: Sequence[float]) -> NDArray[np.float64]:
    """(r − mean) / (std + 1e-6) with the sample standard deviation (n − 1); 0 for a single one."""
    values = np.asarray(rewards, dtype=np.float64)
    if len(values) < 2:
        return np.zeros_like(values)
    advantages: NDArray[np.float64] = (values - values.mean()) / (values.std(ddof=1) + 1e-6)
    return advantages
