"""What a step does to the student: passes over its rows, the loss, and the optimizer's update."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat

import numpy as np
import torch
from torch import Tensor

from student_trainer.batches import (
    BatchConfig,
    MicroBatch,
    Row,
    micro_batches,
    shuffled_parts,
)
from student_trainer.forward import StudentForward
from student_trainer.importance import RolloutImportanceConfig, importance_weights
from student_trainer.losses import Method, StudentLogProbs
from student_trainer.models import Student
from student_trainer.optimizer import Optimizer
from student_trainer.progress import Progress
from student_trainer.ranks import Ranks
from student_trainer.sharding import idle_batch, sum_gradients


class Updater:
    """Makes the updates of a step, together with all ranks.

    Every rank makes the same number of passes, since sharded weights are gathered in each of them:
    a rank with fewer micro-batches fills up with passes that count nothing.

    Args:
        student: the model that is trained.
        forward: its pass.
        method: the loss.
        optimizer: the update.
        batch: how rows are cut.
        importance: whether and how the sampler's log probs are corrected for.
        entropy_bonus: weight of the student's mean entropy, which is subtracted from the loss.
        ranks: the processes of the run.
        progress: told how far a stage is.
    """

    def __init__(
        self,
        student: Student,
        forward: StudentForward,
        method: Method,
        optimizer: Optimizer,
        batch: BatchConfig,
        importance: RolloutImportanceConfig,
        entropy_bonus: float,
        ranks: Ranks,
        progress: Progress,
    ) -> None:
        self._student = student
        self._forward = forward
        self._method = method
        self._optimizer = optimizer
        self._batch = batch
        self._importance = importance
        self._entropy_bonus = entropy_bonus
        self._ranks = ranks
        self._progress = progress

    def corrected(self, rows: Sequence[Row]) -> tuple[list[Row], dict[str, float]]:
        """The rows with the trainer's own log probs and importance weights, where those are on.

        Returns:
            The rows, and metrics of the weights before truncation.
        """
        if self._importance.level == "off":
            return list(rows), {}
        fresh = response_log_probs(
            self._student, self._forward, rows, self._batch, self._ranks, self._progress
        )
        corrected, ratios, changed = [], [], []
        for row, log_probs in zip(rows, fresh, strict=True):
            ratio, weights = importance_weights(log_probs, row.rollout.log_probs, self._importance)
            ratios.append(ratio)
            changed.append(ratio != weights)
            corrected.append(dataclasses.replace(row, old_log_probs=log_probs, importance=weights))
        return corrected, _ratio_metrics(ratios, changed, self._ranks)

    def update(self, step: int, rows: Sequence[Row], seed: int) -> dict[str, float]:
        """One or more optimizer updates; metrics are means over them.

        Args:
            step: the step, from 0.
            rows: this rank's rows.
            seed: decides which rows are in which update.

        Returns:
            The metrics; with `rollout/entropy` where the sampler gives no entropies. Empty when no
            rank has rows.
        """
        parts = shuffled_parts(rows, self._batch.updates_per_step, seed)
        made = [metrics for metrics in (self._update_once(step, part) for part in parts) if metrics]
        return {key: float(np.mean([m[key] for m in made])) for key in made[0]} if made else {}

    def _update_once(self, step: int, rows: Sequence[Row]) -> dict[str, float]:
        def pieces() -> Iterator[MicroBatch]:
            # Made anew each time: all of them at once would fill a GPU with supports.
            return micro_batches(rows, self._batch, self._student.device, step=step + 1)

        own, totals = self._totals(pieces())
        passes = self._ranks.largest(own)
        if not passes:
            return {}
        measured = any(row.rollout.entropies is None for row in rows)
        metrics: dict[str, Tensor] = {}
        for done, piece in zip(range(passes), chain(pieces(), repeat(None)), strict=False):
            self._progress("updating", done, passes)
            sum_gradients(self._forward, self._student, last=done + 1 == passes)
            with self._student.autocast():
                if piece is not None:
                    self._backward(piece, totals, metrics, measured)
                else:
                    idle = self._forward(idle_batch(self._student.device)).sampled
                    (idle.sum() * 0.0).backward()
        summed = self._ranks.sum({key: value.item() for key, value in metrics.items()})
        return {**summed, "optim/grad_norm": self._optimizer.update(step)}

    def _totals(self, pieces: Iterable[MicroBatch]) -> tuple[int, dict[str, Tensor]]:
        """How many pieces this rank has, and what the loss is normalised by, over those of all
        ranks."""
        count, sums = 0, dict[str, Tensor]()
        for piece in pieces:
            count += 1
            add(sums, self._method.totals(piece.targets))
            add(sums, {_ALL_TOKENS: piece.targets.mask.sum()})
        total = self._ranks.sum({key: value.item() for key, value in sums.items()})
        device = self._student.device
        return count, {key: torch.tensor(value, device=device) for key, value in total.items()}

    def _backward(
        self,
        piece: MicroBatch,
        totals: dict[str, Tensor],
        metrics: dict[str, Tensor],
        measured: bool,
    ) -> None:
        """Adds a piece's gradient to the student's, and its metrics to the batch's."""
        support = piece.targets.support_ids
        scores = self._forward(
            piece.tokens,
            None if support is None else piece.to_flat(support),
            entropy=measured or self._entropy_bonus > 0,
        )
        student = StudentLogProbs(
            piece.to_rows(scores.sampled),
            None if scores.support is None else piece.to_rows(scores.support),
        )
        part = self._method.loss(student, piece.targets, totals)
        loss = part.loss
        if scores.entropy is not None:
            entropy = scores.entropy.sum() / totals[_ALL_TOKENS]
            loss = loss - self._entropy_bonus * entropy
            add(metrics, {"rollout/entropy": entropy} if measured else {})
        loss.backward()
        add(metrics, {"optim/loss": loss, **part.metrics})


_ALL_TOKENS = "all_tokens"
"""Key of the response tokens of a batch among its totals."""


def add(sums: dict[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Adds scalars to sums by name, in float64; does not wait for the device."""
    for key, value in values.items():
        value = value.detach().double()
        sums[key] = sums[key] + value if key in sums else value


@torch.no_grad()
def response_log_probs(
    student: Student,
    forward: StudentForward,
    rows: Sequence[Row],
    batch: BatchConfig,
    ranks: Ranks,
    progress: Progress,
) -> list[np.ndarray]:
    """A model's log probs of each row's response, float32 `[T]` each, in the order of the rows."""
    found: dict[int, np.ndarray] = {}
    bare = [dataclasses.replace(row, teacher=None) for row in rows]  # only the tokens matter here
    place = {id(row): index for index, row in enumerate(bare)}
    pieces = list(micro_batches(bare, batch, student.device, step=1))
    passes = ranks.largest(len(pieces))
    for done in range(passes):
        progress("log probs", done, passes)
        with student.autocast():
            if done >= len(pieces):
                forward(idle_batch(student.device))
                continue
            values = pieces[done].to_rows(forward(pieces[done].tokens).sampled).cpu().numpy()
        for row, log_probs in zip(pieces[done].rows, values, strict=True):
            found[place[id(row)]] = log_probs[: len(row.rollout.token_ids)].copy()
    return [found[index] for index in range(len(rows))]


def _ratio_metrics(
    ratios: Sequence[np.ndarray], changed: Sequence[np.ndarray], ranks: Ranks
) -> dict[str, float]:
    flat = np.concatenate([np.zeros(0, np.float32), *ratios])
    total = ranks.sum(
        {
            "tokens": float(flat.size),
            "ratio": float(flat.sum()),
            "changed": float(sum(int(c.sum()) for c in changed)),
        }
    )
    largest = max(ranks.gather(float(flat.max(initial=0.0))))
    if not total["tokens"]:
        return {}
    return {
        "importance/mean": total["ratio"] / total["tokens"],
        "importance/max": largest,
        "importance/changed_share": total["changed"] / total["tokens"],
    }
