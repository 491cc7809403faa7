"""`grpo`: group-relative policy optimisation, the verifier's reward alone (arXiv 2402.03300).

The clipped surrogate over all tokens, with a dual clip for negative advantages (arXiv 1912.09729).
"""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from student_trainer.config import Config
from student_trainer.losses.base import (
    LossPiece,
    Method,
    StudentLogProbs,
    Targets,
    TeacherNeeds,
    clipped_surrogate,
    masked_share,
    policy_ratio,
    weighted,
)


class GrpoConfig(Config):
    """Hyperparameters of `grpo`."""

    kind: Literal["grpo"] = "grpo"
    """The method's name."""
    epsilon: float = Field(0.2, gt=0, lt=1)
    """Clip range of the ratio."""
    dual_clip: float = Field(3.0, gt=1)
    """Bound on the loss of a token with a negative advantage, in multiples of its advantage."""

    def build(self) -> "Grpo":
        """The method."""
        return Grpo(self)


class Grpo(Method):
    """See the module."""

    def __init__(self, config: GrpoConfig) -> None:
        self.config = config

    @property
    def needs(self) -> TeacherNeeds:
        """Nothing: the verifier's reward is all."""
        return TeacherNeeds()

    def totals(self, targets: Targets) -> dict[str, Tensor]:
        """All response tokens are one path."""
        return {"tokens": targets.mask.sum()}

    def loss(
        self, student: StudentLogProbs, targets: Targets, totals: Mapping[str, Tensor]
    ) -> LossPiece:
        """Token mean of the dual-clipped surrogate."""
        ratio = policy_ratio(student.sampled, targets)
        surrogate = clipped_surrogate(ratio, targets.advantages, self.config.epsilon)
        bounded = torch.minimum(surrogate, -targets.advantages * self.config.dual_clip)
        per_token = weighted(torch.where(targets.advantages < 0, bounded, surrogate), targets)
        clipped = surrogate > -targets.advantages * ratio
        tokens = totals["tokens"]
        return LossPiece(
            masked_share(per_token, targets.mask, tokens),
            {"optim/clip_fraction": masked_share(clipped.to(ratio.dtype), targets.mask, tokens)},
        )
