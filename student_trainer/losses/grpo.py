"""`grpo`: group-relative policy optimisation, the verifier's reward alone (arXiv 2402.03300).

The clipped surrogate over all tokens, with a dual clip for negative advantages (arXiv 1912.09729).
"""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from student_trainer.losses.base import (
    LossPiece,
    Method,
    StudentLogProbs,
    Targets,
    TeacherNeeds,
    masked_share,
    weighted,
)
from student_trainer.losses.surrogate import DualClipSettings, dual_clipped_surrogate


class GrpoConfig(DualClipSettings):
    """Hyperparameters of `grpo`."""

    kind: Literal["grpo"] = "grpo"
    """The method's name."""

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
        surrogate = dual_clipped_surrogate(
            student.sampled, targets, targets.advantages, self.config
        )
        mask, tokens = targets.mask, totals["tokens"]
        return LossPiece(
            masked_share(weighted(surrogate.loss, targets), mask, tokens),
            {"optim/clip_fraction": masked_share(surrogate.clipped, mask, tokens)},
        )
