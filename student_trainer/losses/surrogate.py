"""The clipped surrogate of policy gradients: how an advantage becomes the loss of a token."""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from student_trainer.config import Config
from student_trainer.losses.base import Targets

LARGEST_LOG_RATIO = 20.0
"""Log ratios are clamped to ± this before exp."""


class DualClipSettings(Config):
    """How far a token's ratio may carry its loss."""

    epsilon: float = Field(0.2, gt=0, lt=1)
    """Clip range of the ratio."""
    dual_clip: float = Field(3.0, gt=1)
    """Bound on the loss of a token with a negative advantage, in multiples of its advantage."""


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The surrogate of each token; both tensors are `[B, T]`."""

    loss: Tensor
    """Its loss, with gradient."""
    clipped: Tensor
    """bool: whether the clip of the ratio is in force."""


def policy_ratio(log_probs: Tensor, targets: Targets) -> Tensor:
    """ρ = exp(log π − log π_old), `[B, T]`, its logarithm clamped to ±20; 1 at masked positions."""
    difference = torch.where(targets.mask, log_probs - targets.old_log_probs, 0.0)
    return difference.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


def clipped_surrogate(
    log_probs: Tensor, targets: Targets, advantages: Tensor, epsilon: float
) -> Surrogate:
    """PPO's clipped surrogate (Schulman et al., arXiv 1707.06347).

    Args:
        log_probs: `[B, T]`: the student's log probs of the sampled tokens, with gradient.
        targets: for the mask and the old log probs.
        advantages: `[B, T]` or `[B, 1]`, without gradient.
        epsilon: clip range of the ratio.
    """
    ratio = policy_ratio(log_probs, targets)
    free, bounded = -advantages * ratio, -advantages * ratio.clamp(1 - epsilon, 1 + epsilon)
    return Surrogate(torch.maximum(free, bounded), bounded > free)


def dual_clipped_surrogate(
    log_probs: Tensor, targets: Targets, advantages: Tensor, settings: DualClipSettings
) -> Surrogate:
    """The clipped surrogate, bounded for negative advantages as well (Ye et al., arXiv 1912.09729).

    Args: as `clipped_surrogate`.
    """
    surrogate = clipped_surrogate(log_probs, targets, advantages, settings.epsilon)
    bounded = torch.minimum(surrogate.loss, -advantages * settings.dual_clip)
    return Surrogate(torch.where(advantages < 0, bounded, surrogate.loss), surrogate.clipped)
