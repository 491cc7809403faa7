"""Figures of one step: what was sampled, what hints there were, where the time went."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from student_trainer.batches import Row
from student_trainer.groups import Group
from student_trainer.hints import RolloutHints


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """What the step's rollouts look like."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    metrics = {
        "rollout/reward": float(np.mean([rollout.reward for rollout in rollouts])),
        "rollout/length": tokens / len(rollouts),
        "rollout/truncated_share": float(np.mean([not r.finished for r in rollouts])),
        "rollout/mixed_groups": float(np.mean([group.mixed for group in groups])),
    }
    entropies = [r.entropies for r in rollouts if r.entropies is not None]
    if entropies:
        metrics["rollout/entropy"] = float(np.concatenate(entropies).mean())
    return metrics


def hint_metrics(
    hints: Sequence[Sequence[RolloutHints | None]], rows: Sequence[Row]
) -> dict[str, float]:
    """How many rollouts have hints, and how strong the one-sided signal is on them.

    Args:
        hints: of each rollout of each group.
        rows: the step's training rows.
    """
    flat = [chosen for group in hints for chosen in group]
    wrong = [len(chosen.wrong) for chosen in flat if chosen is not None]
    metrics = {"hints/coverage": len(wrong) / len(flat)}
    if wrong:
        metrics["hints/wrong_mean"] = float(np.mean(wrong))
    gaps = [
        np.abs(row.teacher.sampled - row.rollout.log_probs)
        for row in rows
        if row.teacher is not None and row.teacher.sampled is not None
    ]
    if gaps:
        metrics["signal/one_sided_abs"] = float(np.concatenate(gaps).mean())
    return metrics
