"""What a method is: a token-level loss, and what it needs from the teacher.

To add a method, write one file beside this one with a `Config` subclass (its `kind` is the name
used in recipes) and a `Method` subclass, and list the config in `losses/__init__.py`. Override

- `needs_hints`: whether rollouts are scored under hints at all;
- `token_counts`: how many tokens each of the loss's paths has, from the targets alone;
- `loss`: the loss of one piece of the batch, each path divided by its count in the whole batch.

Because every path is divided by the count of the whole optimizer batch, the sum of the pieces'
losses, and so the gradient, does not depend on how the batch is cut into micro-batches or ranks.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Targets:
    """What a loss compares the student's log probs with; nothing here carries a gradient.

    B rollouts, T positions (padded at the end), K wrong hints (padded).
    """

    mask: Tensor
    """bool `[B, T]`: response tokens that count."""
    advantages: Tensor
    """`[B, T]` or `[B, 1]`: group-relative advantages."""
    old_log_probs: Tensor
    """`[B, T]`: the student's log probs when the rollouts were made."""
    correct: Tensor | None = None
    """`[B, T]`: the teacher's log probs under the correct hint."""
    wrong: Tensor | None = None
    """`[B, K, T]`: the teacher's log probs under the wrong hints."""
    wrong_valid: Tensor | None = None
    """bool `[B, K]`: which of the wrong hints exist; none for a rollout without hints."""
    importance: Tensor | None = None
    """`[B, T]`: importance weights between sampler and trainer, times the loss of each token."""


@dataclass(frozen=True, slots=True)
class LossPiece:
    """The loss of one piece of the batch."""

    loss: Tensor
    """Scalar; the pieces' losses add up to the batch's."""
    metrics: dict[str, Tensor]
    """Scalars by name, normalised like the loss: the pieces' metrics add up to the batch's."""


class Method(ABC):
    """A token-level loss."""

    needs_hints: ClassVar[bool]
    """Whether the teacher must score the rollouts under correct and wrong hints."""

    @abstractmethod
    def token_counts(self, targets: Targets) -> dict[str, Tensor]:
        """Tokens of each path of the loss in these targets; scalars."""

    @abstractmethod
    def loss(self, log_probs: Tensor, targets: Targets, counts: Mapping[str, Tensor]) -> LossPiece:
        """The loss of one piece.

        Args:
            log_probs: the student's log probs of the response tokens, with gradient, `[B, T]`.
            targets: the piece's targets.
            counts: `token_counts` of the whole optimizer batch.
        """


def masked_share(values: Tensor, mask: Tensor, count: Tensor) -> Tensor:
    """The piece's share of a token mean: sum over `mask`, divided by the whole batch's `count`.

    Masked values may be anything, NaN included; an empty path gives 0.
    """
    return torch.where(mask, values, 0.0).sum() / count.clamp(min=1)


def importance_ratio(log_probs: Tensor, targets: Targets) -> Tensor:
    """ρ = exp(log π − log π_old), `[B, T]`, its logarithm clamped to ±20; 1 at masked positions."""
    difference = torch.where(targets.mask, log_probs - targets.old_log_probs, 0.0)
    return difference.clamp(-20.0, 20.0).exp()


def clipped_surrogate(ratio: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """PPO's clipped surrogate loss of each token, `[B, T]` (Schulman et al., arXiv 1707.06347)."""
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return torch.maximum(-advantages * ratio, -advantages * clipped)


def weighted(per_token: Tensor, targets: Targets) -> Tensor:
    """The loss of each token times its importance weight, where there are any; `[B, T]`."""
    return per_token if targets.importance is None else per_token * targets.importance
