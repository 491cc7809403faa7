"""How far a run has moved from where it started.

Length and entropy that run away, or collapse, are how on-policy distillation fails first.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

LARGEST_LOG_RATIO = 20.0
"""Log ratios are clamped to ± this before exp."""
_RATIOS = {"drift/length": "rollout/length", "drift/entropy": "rollout/entropy"}
_DIFFERENCES = {"drift/reward": "rollout/reward"}
_PREFIX = "start/"


class Drift:
    """Compares figures with those of the first step that had them.

    Args:
        totals: the run's totals, from which a resumed run takes its start.
    """

    def __init__(self, totals: Mapping[str, float]) -> None:
        self._start = {
            key.removeprefix(_PREFIX): value
            for key, value in totals.items()
            if key.startswith(_PREFIX)
        }

    def metrics(self, row: Mapping[str, float]) -> dict[str, float]:
        """Length and entropy as multiples of the start's, reward as the difference to it.

        Args:
            row: the step's metrics.
        """
        for source in (*_RATIOS.values(), *_DIFFERENCES.values()):
            if source in row:
                self._start.setdefault(source, row[source])
        found = {}
        for key, source in _RATIOS.items():
            if source in row and self._start[source] > 0:
                found[key] = row[source] / self._start[source]
        for key, source in _DIFFERENCES.items():
            if source in row:
                found[key] = row[source] - self._start[source]
        return found

    def totals(self) -> dict[str, float]:
        """The start, to be kept in the run's totals."""
        return {f"{_PREFIX}{key}": value for key, value in self._start.items()}


def kl_estimates(
    student: NDArray[np.floating], start: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Schulman's k3 estimate of KL(student ‖ start) at each sampled token: r − 1 − log r with
    r = p_start / p_student ("Approximating KL divergence", 2020).

    It is never negative, and its mean over the student's own samples is the divergence.

    Args:
        student: log probs of the weights that sampled, `[T]`.
        start: log probs of the weights that the run began with, `[T]`.
    """
    log_ratio = np.clip(start - student, -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    estimates: NDArray[np.floating] = np.expm1(log_ratio) - log_ratio
    return estimates


def kl_metrics(estimates: Sequence[NDArray[np.floating]]) -> dict[str, float]:
    """Mean divergence from the start per token, in nats.

    Args:
        estimates: `kl_estimates` of each rollout, `[T]` each.
    """
    flat = np.concatenate([np.zeros(0), *estimates])
    return {"drift/kl_to_start": float(flat.mean())} if len(flat) else {}
