"""`rlsd`: the verifier's reward, scaled token by token by the teacher's evidence (as `rlsd` in the
reference of arXiv 2606.11709).

The evidence of a token is how much more probable the correct hint makes it than the student finds
it. It changes an advantage's size, never its sign, and fades out over the run.
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
    TokenAdvantages,
    masked_share,
    weighted,
)
from student_trainer.losses.surrogate import clipped_surrogate

LARGEST_EVIDENCE = 60.0
"""The evidence is clamped to ± this before exp."""


class RlsdSettings(Config):
    """Hyperparameters that `rlsd` and `rlsd_ectr` share; the defaults are the paper's."""

    epsilon: float = Field(0.2, gt=0, lt=1)
    """Clip range of the ratio."""
    epsilon_w: float = Field(0.2, ge=0, lt=1)
    """Clip range of the weight around 1."""
    lam: float = Field(0.5, ge=0, le=1)
    """Share λ of the weight in the advantage at step 1."""
    lam_decay_steps: int = Field(50, ge=0)
    """Steps over which λ falls linearly to 0, counted from step 1; 0 for never."""

    def lam_at(self, step: int) -> float:
        """λ at a step, from 1."""
        if not self.lam_decay_steps:
            return self.lam
        return self.lam * max(0.0, 1 - (step - 1) / self.lam_decay_steps)


class RlsdConfig(RlsdSettings):
    """Hyperparameters of `rlsd`; the defaults are the paper's."""

    kind: Literal["rlsd"] = "rlsd"
    """The method's name."""

    def build(self) -> "Rlsd":
        """The method."""
        return Rlsd(self)


class Rlsd(Method):
    """See the module."""

    def __init__(self, config: RlsdSettings) -> None:
        self.config = config

    @property
    def needs(self) -> TeacherNeeds:
        """The sampled tokens' log probs under the correct hint."""
        return TeacherNeeds(reads="correct_hint", sampled=True)

    def evidence(self, student: StudentLogProbs, targets: Targets) -> Tensor:
        """e_c = log π_T − log π_S, `[B, T]`, in nats; anything where there is no teacher."""
        if targets.teacher is None:
            raise ValueError("rlsd needs the teacher's log probs of the sampled tokens")
        return targets.teacher - student.sampled.detach()

    def token_advantages(self, student: StudentLogProbs, targets: Targets) -> TokenAdvantages:
        """A·((1−λ) + λ·w)."""
        advantages = self._advantages(
            self._weights(self._scored(student, targets), targets), targets
        )
        return TokenAdvantages(advantages, targets.mask & (advantages != targets.advantages))

    def _scored(self, student: StudentLogProbs, targets: Targets) -> Tensor:
        """The evidence, 0 where there is no teacher."""
        return torch.where(targets.scored_mask(), self.evidence(student, targets), 0.0)

    def _weights(self, evidence: Tensor, targets: Targets) -> Tensor:
        """w = clamp(exp(sign(A)·evidence), 1 ± ε_w), `[B, T]`."""
        signed = (targets.advantages.sign() * evidence).clamp(-LARGEST_EVIDENCE, LARGEST_EVIDENCE)
        return signed.exp().clamp(1 - self.config.epsilon_w, 1 + self.config.epsilon_w)

    def _advantages(self, weights: Tensor, targets: Targets) -> Tensor:
        lam = self.config.lam_at(targets.step)
        return targets.advantages * ((1 - lam) + lam * weights)

    def totals(self, targets: Targets) -> dict[str, Tensor]:
        """All response tokens are one path."""
        return {"tokens": targets.mask.sum()}

    def loss(
        self, student: StudentLogProbs, targets: Targets, totals: Mapping[str, Tensor]
    ) -> LossPiece:
        """Token mean of the clipped surrogate with A·((1−λ) + λ·w)."""
        config = self.config
        evidence = self._scored(student, targets)
        weight = self._weights(evidence, targets)
        advantages = self._advantages(weight, targets)
        surrogate = clipped_surrogate(student.sampled, targets, advantages, config.epsilon)

        def share(values: Tensor) -> Tensor:
            return masked_share(values, targets.mask, totals["tokens"])

        return LossPiece(
            share(weighted(surrogate.loss, targets)),
            {
                "optim/clip_fraction": share(surrogate.clipped),
                "signal/evidence_abs": share(evidence.abs()),
                "signal/weight_change": share((weight - 1).abs()),
                "signal/lam": share(torch.full_like(weight, config.lam_at(targets.step))),
            },
        )
