"""How strong the signals are, on which tokens they fall, and whether they tell right from wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from counterhint import contrast, one_sided
from counterhint.token_classes import TokenClasses
from student_trainer.batches import Row
from student_trainer.metrics.auc import auc


@dataclass(frozen=True, slots=True)
class TokenSignals:
    """The signals at N response tokens, rollouts one after another; small enough to be sent
    between ranks."""

    token_ids: NDArray[np.int32]
    """`[N]`."""
    contrast: NDArray[np.float32]
    """`[N]`: e_ctr in nats; NaN where there is none."""
    one_sided: NDArray[np.float32]
    """`[N]`: e_c, the teacher's log prob less the student's, in nats; NaN where there is none."""
    verdicts: NDArray[np.int8]
    """`[N]`: 1 for a right token, 0 for a wrong one, −1 for others (see `Task.token_verdicts`)."""

    @classmethod
    def of(
        cls, rows: Sequence[Row], verdicts: Sequence[NDArray[np.int8] | None] | None = None
    ) -> Self:
        """The signals of training rows.

        Args:
            rows: the rows.
            verdicts: of each row's tokens, `[T]` each, where the task gives any.
        """
        judged = verdicts if verdicts is not None else [None] * len(rows)
        parts = [_of_row(row, one) for row, one in zip(rows, judged, strict=True)]
        return cls(*(np.concatenate(column) for column in zip(_NOTHING, *parts, strict=True)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The signals of several ranks as one."""
        columns: dict[str, Any] = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
        }
        return cls(**columns)


_NOTHING = (
    np.zeros(0, np.int32),
    np.zeros(0, np.float32),
    np.zeros(0, np.float32),
    np.zeros(0, np.int8),
)


def _of_row(row: Row, verdicts: NDArray[np.int8] | None) -> tuple[NDArray[Any], ...]:
    length, teacher = len(row.rollout.token_ids), row.teacher
    missing = np.full(length, np.nan, np.float32)
    e_ctr = e_c = missing
    if teacher is not None and teacher.sampled is not None:
        e_c = one_sided(teacher.sampled, row.old_log_probs)
        if teacher.wrong is not None and len(teacher.wrong):
            e_ctr = contrast(teacher.sampled, teacher.wrong)
    return (
        row.rollout.token_ids,
        e_ctr,
        e_c,
        np.full(length, -1, np.int8) if verdicts is None else verdicts,
    )


def signal_metrics(signals: TokenSignals, classes: TokenClasses | None = None) -> dict[str, float]:
    """Mean |e_ctr| and |e_c|, for each class of tokens too, each class's share of the sum, and the
    AUC of each signal for right against wrong tokens.

    Args:
        signals: of the step's rows.
        classes: of the student's vocabulary.
    """
    metrics: dict[str, float] = {}
    for name, values in (("contrast", signals.contrast), ("one_sided", signals.one_sided)):
        known = ~np.isnan(values)
        if not known.any():
            continue
        sizes = np.abs(values[known]).astype(np.float64)
        metrics[f"signal/{name}_abs"] = float(sizes.mean())
        if classes is not None:
            metrics |= _by_class(name, sizes, signals.token_ids[known], classes)
        judged = known & (signals.verdicts >= 0)
        right = signals.verdicts[judged] == 1
        if right.any() and not right.all():
            metrics[f"signal/auc_{name}"] = auc(values[judged], right)
    return metrics


def _by_class(
    name: str, sizes: NDArray[np.float64], token_ids: NDArray[np.int32], classes: TokenClasses
) -> dict[str, float]:
    kinds = classes.of(token_ids)
    counts = np.bincount(kinds, minlength=len(classes.names))
    sums = np.bincount(kinds, weights=sizes, minlength=len(classes.names))
    total = float(sums.sum())
    metrics = {}
    for kind, count, mass in zip(classes.names, counts.tolist(), sums.tolist(), strict=True):
        if count:
            metrics[f"signal/{name}_abs/{kind}"] = mass / count
        if total:
            metrics[f"signal/{name}_share/{kind}"] = mass / total
    return metrics
