"""`sdpo`: self-distillation policy optimisation (as `sdpo` in the reference of arXiv 2606.11709).

The student is pulled to the teacher's distribution under the correct hint, on the k tokens that
the student itself finds most probable, times the truncated ratio of the policies.
"""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from student_trainer.losses.base import StudentLogProbs, Targets, TeacherNeeds
from student_trainer.losses.distillation import (
    Distillation,
    DistilledTokens,
    SupportSettings,
    on_support,
    sampled_pair,
)
from student_trainer.losses.divergence import closed, jsd_terms
from student_trainer.losses.surrogate import policy_ratio


class SdpoSettings(SupportSettings):
    """Hyperparameters of the distillation in `sdpo` and `srpo`; the defaults are the paper's."""

    alpha: float = Field(0.5, ge=0, le=1)
    """Mix α of the divergence: 0 forward KL, 1 reverse KL, the generalised JSD between."""
    is_clip: float = Field(2.0, gt=0)
    """Largest ratio of the policies."""
    full_logit_distill: bool = True
    """Compare distributions; otherwise the reverse KL is estimated from the sampled tokens, by
    the gradient of their log probs times log π_S − log π_T."""

    @model_validator(mode="after")
    def _estimator(self) -> Self:
        if not self.full_logit_distill and self.alpha != 1:
            raise ValueError(
                f"full_logit_distill=false estimates the reverse KL, alpha 1, not {self.alpha}: "
                "set alpha to 1 or full_logit_distill to true"
            )
        return self

    def teacher_needs(self, *, entropy: bool) -> TeacherNeeds:
        """The student's top-k, or the sampled tokens, under the correct hint."""
        return TeacherNeeds(
            reads="correct_hint",
            sampled=not self.full_logit_distill,
            student_top_k=self.top_k_distill if self.full_logit_distill else 0,
            entropy=entropy,
        )


class SdpoConfig(SdpoSettings):
    """Hyperparameters of `sdpo`; the defaults are the paper's."""

    kind: Literal["sdpo"] = "sdpo"
    """The method's name."""

    def build(self) -> "Sdpo":
        """The method."""
        return Sdpo(self)


class Sdpo(Distillation):
    """See the module."""

    def __init__(self, config: SdpoConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def needs(self) -> TeacherNeeds:
        """The student's top-k under the correct hint."""
        return self.config.teacher_needs(entropy=False)

    def distill(self, student: StudentLogProbs, targets: Targets, where: Tensor) -> DistilledTokens:
        """The divergence to the teacher times the truncated ratio."""
        return sdpo_tokens(student, targets, where, self.config)


def sdpo_tokens(
    student: StudentLogProbs, targets: Targets, where: Tensor, settings: SdpoSettings
) -> DistilledTokens:
    """SDPO's loss of the tokens in `where`, bool `[B, T]`."""
    with torch.no_grad():
        ratio = policy_ratio(student.sampled, targets)[where]
        truncated = ratio.clamp(max=settings.is_clip)
    if settings.full_logit_distill:
        ours, teachers = (
            closed(log_probs, tail=settings.distill_add_tail)
            for log_probs in on_support(student, targets, where)
        )
        loss = jsd_terms(ours, teachers, settings.alpha).sum(-1)
        divergence = loss.detach()
    else:
        ours, teachers = sampled_pair(student, targets, where)
        divergence = (ours - teachers).detach()
        loss = divergence * ours
    return DistilledTokens(
        loss * truncated,
        divergence,
        clipped=ratio > settings.is_clip,
        metrics={"optim/ratio_mean": ratio},
    )
