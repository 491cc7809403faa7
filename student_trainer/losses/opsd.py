"""`opsd`: on-policy self-distillation (as `opsd` in the reference of arXiv 2606.11709).

The student is pulled to the teacher's distribution under the correct hint, on the k tokens that
the teacher finds most probable there. The term of each (token, v) is clamped before the sum, so
that a few tokens with extreme terms do not make the gradient.
"""

from typing import Literal

from pydantic import Field
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


class OpsdSettings(SupportSettings):
    """Hyperparameters that `opsd` and `opsd_ectr` share; the defaults are the paper's."""

    beta: float = Field(0.0, ge=0, le=1)
    """Mix β of the divergence: 0 forward KL, 1 reverse KL, the generalised JSD between."""
    jsd_token_clip: float = Field(0.05, ge=0)
    """Bound above on the divergence's term of each (token, v); 0 for none."""


class OpsdConfig(OpsdSettings):
    """Hyperparameters of `opsd`; the defaults are the paper's."""

    kind: Literal["opsd"] = "opsd"
    """The method's name."""
    full_logit_distill: bool = True
    """Compare distributions; otherwise the squared difference of the sampled token's log probs
    takes the divergence's place, clamped likewise."""

    def build(self) -> "Opsd":
        """The method."""
        return Opsd(self)


class Opsd(Distillation):
    """See the module."""

    def __init__(self, config: OpsdConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def needs(self) -> TeacherNeeds:
        """The teacher's top-k under the correct hint, or the sampled tokens' log probs."""
        if self.config.full_logit_distill:
            return TeacherNeeds(reads="correct_hint", teacher_top_k=self.config.top_k_distill)
        return TeacherNeeds(reads="correct_hint", sampled=True)

    def distill(self, student: StudentLogProbs, targets: Targets, where: Tensor) -> DistilledTokens:
        """The clamped divergence to the teacher."""
        config = self.config
        if not config.full_logit_distill:
            ours, teachers = sampled_pair(student, targets, where)
            squared = (teachers - ours).square()
            return clamped_divergence(squared[:, None], config.jsd_token_clip)
        ours, teachers = (
            closed(log_probs, tail=config.distill_add_tail)
            for log_probs in on_support(student, targets, where)
        )
        return clamped_divergence(jsd_terms(ours, teachers, config.beta), config.jsd_token_clip)


def clamped_divergence(terms: Tensor, limit: float) -> DistilledTokens:
    """The sum of a divergence's terms, `[N, v]`, each clamped above at `limit` (0: not clamped).

    With a limit the sum may be negative, since only positive terms are cut.
    """
    clamped = terms.clamp(max=limit) if limit else terms
    return DistilledTokens(
        clamped.sum(-1), terms.detach().sum(-1), clipped=(clamped < terms).any(-1)
    )
