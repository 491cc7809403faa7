"""Importance weights between the sampler and the trainer.

The sampler's log probs differ from the trainer's: it computes with other kernels, maybe in another
precision, and, when sampling runs ahead, with older weights. With a `level` other than `off` the
trainer takes the log probs of every step's rollouts itself before it updates (one more forward
pass), the loss's ratio starts from those, and each token's loss is multiplied by the truncated
weight w = min(π_trainer / π_sampler, threshold) (Ionides 2008; Yao et al., "Your efficient RL
framework secretly brings you off-policy RL training", 2025; as `rollout_is` in RLCSD's
implementation, arXiv 2606.11709). With `level: off` the sampler's log probs serve as the old ones,
so that the ratio's clip sees the difference.
"""

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from student_trainer.config import Config

LARGEST_LOG_WEIGHT = 20.0
"""Log ratios are clamped to ± this before exp."""


class RolloutImportanceConfig(Config):
    """How the loss is corrected for what parts the sampler from the trainer."""

    level: Literal["off", "token", "sequence"] = "off"
    """One weight a token, or one a response: the product of its tokens' ratios."""
    threshold: float = Field(2.0, gt=0)
    """Largest weight; larger ones are cut to it, or masked where `lower` is set."""
    lower: float | None = Field(None, ge=0)
    """Turns the truncation into a mask: weights outside `lower` to `threshold` count 0."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.lower is not None and not self.lower < self.threshold:
            raise ValueError(f"lower ({self.lower}) must be below threshold ({self.threshold})")
        return self


def importance_weights(
    trainer: NDArray[np.float32], sampler: NDArray[np.float32], config: RolloutImportanceConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The weights of one response's tokens.

    Args:
        trainer: the trainer's log probs before the step's updates, `[T]`.
        sampler: the sampler's log probs, `[T]`.
        config: how they are made; its level is not `off`.

    Returns:
        The ratios before truncation and the weights after it, `[T]` each.
    """
    log_ratio = trainer - sampler
    if config.level == "sequence":
        log_ratio = np.full_like(log_ratio, log_ratio.sum())
    ratio = np.exp(np.clip(log_ratio, -LARGEST_LOG_WEIGHT, LARGEST_LOG_WEIGHT))
    if config.lower is None:
        return ratio, np.minimum(ratio, np.float32(config.threshold))
    inside = (ratio >= config.lower) & (ratio <= config.threshold)
    return ratio, np.where(inside, ratio, np.float32(0.0))
