"""`srpo`: sample-routed policy optimisation (arXiv 2604.02288, as `srpo` in the reference of arXiv
2606.11709).

Rollouts with a positive advantage learn from the reward, the others from the teacher under the
correct hint; among the latter, tokens at which the teacher is sure count more.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from student_trainer.losses.base import (
    LossPiece,
    Method,
    StudentLogProbs,
    Targets,
    TeacherNeeds,
    masked_share,
    spread,
    weighted,
)
from student_trainer.losses.sdpo import SdpoSettings, sdpo_tokens
from student_trainer.losses.surrogate import dual_clipped_surrogate


class SrpoConfig(SdpoSettings):
    """Hyperparameters of `srpo`; the defaults are the paper's."""

    kind: Literal["srpo"] = "srpo"
    """The method's name."""
    beta: float = Field(1.0, ge=0)
    """Strength β of the weights exp(−β·H) by the teacher's entropy H; 0 weighs all alike."""

    def build(self) -> "Srpo":
        """The method."""
        return Srpo(self)


class Srpo(Method):
    """See the module."""

    def __init__(self, config: SrpoConfig) -> None:
        self.config = config

    @property
    def needs(self) -> TeacherNeeds:
        """The student's top-k under the correct hint, and the teacher's entropy."""
        return self.config.teacher_needs(entropy=True)

    def routed(self, targets: Targets) -> Tensor:
        """bool `[B, T]`: tokens that learn from the teacher; all others learn from the reward."""
        total = torch.where(targets.mask, targets.advantages, 0.0).sum(1, keepdim=True)
        return targets.scored_mask() & (total <= 0)

    def weights(self, targets: Targets) -> Tensor:
        """exp(−β·H), `[B, T]`; 0 at tokens that are not routed to the teacher."""
        log_weights = -self.config.beta * teacher_entropy(targets)
        # So that their sum cannot vanish: at least e^-78 in float32, e^-637 in float64.
        smallest = 0.9 * math.log(torch.finfo(log_weights.dtype).tiny)
        weights = log_weights.clamp(min=smallest).exp()
        return torch.where(self.routed(targets), weights, 0.0)

    def totals(self, targets: Targets) -> dict[str, Tensor]:
        """Response tokens, those routed to the teacher, and the sum of the latter's weights, by
        which these come to a mean of 1."""
        return {
            "tokens": targets.mask.sum(),
            "routed": self.routed(targets).sum(),
            "weight": self.weights(targets).sum(),
        }

    def loss(
        self, student: StudentLogProbs, targets: Targets, totals: Mapping[str, Tensor]
    ) -> LossPiece:
        """Mean over all tokens: the weighted SDPO term where routed, GRPO's elsewhere."""
        routed, mask = self.routed(targets), targets.mask
        distilled = sdpo_tokens(student, targets, routed, self.config)
        plain = dual_clipped_surrogate(student.sampled, targets, targets.advantages, self.config)
        weights = self.weights(targets)
        smallest = torch.finfo(weights.dtype).tiny
        weights = weights * (totals["routed"] / totals["weight"].clamp(min=smallest))
        per_token = torch.where(routed, spread(distilled.loss, routed) * weights, plain.loss)
        clipped = torch.where(routed, spread(distilled.clipped, routed), plain.clipped)

        def routed_mean(values: Tensor) -> Tensor:
            return masked_share(values, routed, totals["routed"])

        return LossPiece(
            masked_share(weighted(per_token, targets), mask, totals["tokens"]),
            {
                "optim/clip_fraction": masked_share(clipped, mask, totals["tokens"]),
                "signal/distilled_share": masked_share(routed, mask, totals["tokens"]),
                "signal/divergence": routed_mean(spread(distilled.divergence, routed)),
                "signal/teacher_entropy": routed_mean(teacher_entropy(targets)),
            },
        )


def teacher_entropy(targets: Targets) -> Tensor:
    """The entropy H of the teacher's distributions, `[B, T]`."""
    if targets.teacher_entropy is None:
        raise ValueError("srpo needs the teacher's entropy")
    return targets.teacher_entropy
