"""The contrast's arithmetic in numpy, for clients, services and views.

Source: RLCSD, arXiv 2606.11709. The trainer computes the same in torch inside its loss; a test
holds both to the same numbers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def one_sided(correct: NDArray[np.floating], student: NDArray[np.floating]) -> NDArray[np.floating]:
    """One-sided evidence e_c = log p(correct hint) − log p(student).

    Args:
        correct: log probs under the correct hint, `[T]`.
        student: the student's own log probs, `[T]`.
    """
    return correct - student


def contrast(correct: NDArray[np.floating], wrong: NDArray[np.floating]) -> NDArray[np.floating]:
    """e_ctr = log p(correct) − log mean_k p(wrong hint k): probabilities are averaged, then logged.

    Args:
        correct: log probs under the correct hint, `[T]`.
        wrong: log probs under each of the K ≥ 1 wrong hints, `[K, T]`.

    Raises:
        ValueError: no wrong hint, or lengths that differ.
    """
    if wrong.ndim != 2 or not len(wrong) or wrong.shape[1:] != correct.shape:
        raise ValueError(
            f"wrong-hint log probs must be [K >= 1, {len(correct)}], not {list(wrong.shape)}"
        )
    top = wrong.max(axis=0)
    mean: NDArray[np.floating] = top + np.log(np.exp(wrong - top).mean(axis=0))
    return correct - mean


@dataclass(frozen=True, slots=True)
class Gate:
    """How the contrast becomes a change of the advantage; defaults are the paper's values."""

    tau: float = 0.02
    """Temperature of the tanh."""
    beta: float = 1.0
    """Weight of the contrast."""
    lam: float = 0.5
    """Scale of the change."""
    delta: float = 0.02
    """A token is selected when its change is larger than this."""
    clip_low: float = -2.0
    """Smallest change."""
    clip_high: float = 2.0
    """Largest change."""


@dataclass(frozen=True, slots=True)
class Modulation:
    """What the gate does to each token; every array is `[T]`."""

    residual: NDArray[np.floating]
    """The change r, before selection."""
    selected: NDArray[np.bool_]
    """Whether the token's advantage is changed."""
    advantage: NDArray[np.floating]
    """A, or A + r on selected tokens, never across A's sign."""


def modulate(e_ctr: NDArray[np.floating], advantage: float, gate: Gate | None = None) -> Modulation:
    """The modulated advantage of each token of one rollout.

    Args:
        e_ctr: the contrast, `[T]`.
        advantage: the rollout's group-relative advantage A.
        gate: hyperparameters; the paper's by default.
    """
    gate = gate or Gate()
    strength = gate.beta * gate.lam * np.tanh(e_ctr / gate.tau)
    residual = np.clip(strength, gate.clip_low, gate.clip_high)
    selected = np.abs(residual) > gate.delta
    changed = np.clip(
        advantage + residual,
        0.0 if advantage >= 0 else None,
        0.0 if advantage <= 0 else None,
    )
    return Modulation(residual, selected, np.where(selected, changed, advantage))
