"""What a step's rollouts look like: reward, length, entropy, how old the weights were."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from student_trainer.groups import Group
from student_trainer.hints import RolloutHints


@dataclass(frozen=True, slots=True)
class RolloutFigures:
    """One figure of each kind for each of R rollouts; small enough to be sent between ranks."""

    reward: NDArray[np.float64]
    """`[R]`."""
    length: NDArray[np.int64]
    """`[R]`: response tokens."""
    finished: NDArray[np.bool_]
    """`[R]`: whether it ended by itself."""
    mixed: NDArray[np.bool_]
    """`[R]`: whether its group holds right and wrong rollouts."""
    entropy: NDArray[np.float64]
    """`[R]`: sum over its tokens, in nats; NaN where the sampler gives none."""
    revision: NDArray[np.int64]
    """`[R]`: number of the weights that drew it."""
    wrong_hints: NDArray[np.int64]
    """`[R]`: its wrong hints; −1 for a rollout without hints."""
    trained: NDArray[np.bool_]
    """`[R]`: whether the step trains on it."""

    @classmethod
    def of(
        cls,
        groups: Sequence[Group],
        hints: Sequence[Sequence[RolloutHints | None]],
        trained: Sequence[Collection[int]],
    ) -> Self:
        """The figures of some groups.

        Args:
            groups: the groups.
            hints: of each rollout of each group.
            trained: the indices of each group's rollouts that have a training row.
        """
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        return cls(
            reward=np.array([rollout.reward for rollout in rollouts], np.float64),
            length=np.array([len(rollout.token_ids) for rollout in rollouts], np.int64),
            finished=np.array([rollout.finished for rollout in rollouts], np.bool_),
            mixed=np.array([group.mixed for group in groups for _ in group.rollouts], np.bool_),
            entropy=np.array(
                [np.nan if r.entropies is None else r.entropies.sum() for r in rollouts], np.float64
            ),
            revision=np.array([rollout.revision for rollout in rollouts], np.int64),
            wrong_hints=np.array(
                [-1 if one is None else len(one.wrong) for one in chain(*hints)], np.int64
            ),
            trained=np.array(
                [
                    index in rows
                    for group, rows in zip(groups, trained, strict=True)
                    for index in range(len(group.rollouts))
                ],
                np.bool_,
            ),
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The figures of several ranks as one."""
        columns: dict[str, Any] = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
        }
        return cls(**columns)


def rollout_metrics(rollouts: RolloutFigures) -> dict[str, float]:
    """Means over the rollouts; entropy is a mean over the tokens of those that have one."""
    right = rollouts.reward == 1
    metrics = {
        "rollout/reward": float(rollouts.reward.mean()),
        "rollout/length": float(rollouts.length.mean()),
        "rollout/truncated_share": float((~rollouts.finished).mean()),
        # All groups are of one size, so this is the share of the groups too.
        "rollout/mixed_groups": float(rollouts.mixed.mean()),
    }
    for name, which in (("right", right), ("wrong", ~right)):
        if which.any():
            metrics[f"rollout/length_{name}"] = float(rollouts.length[which].mean())
    known = ~np.isnan(rollouts.entropy)
    tokens = int(rollouts.length[known].sum())
    if tokens:
        metrics["rollout/entropy"] = float(rollouts.entropy[known].sum()) / tokens
    return metrics


def staleness_metrics(rollouts: RolloutFigures, revision: int) -> dict[str, float]:
    """How old the weights were that drew the rollouts.

    Args:
        rollouts: of the step.
        revision: number of the weights that the step starts from.

    Returns:
        Mean and maximum, in steps between the two; 0 when sampling does not run ahead.
    """
    staleness = revision - rollouts.revision
    return {"staleness/mean": float(staleness.mean()), "staleness/max": float(staleness.max())}
