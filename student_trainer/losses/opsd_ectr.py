"""`opsd_ectr`: OPSD with the contrast in its target (as `opsd_ectr` in the reference of arXiv
2606.11709).

The target moves from the teacher under the correct hint away from the teacher under a wrong one,
and tokens at which the two hardly differ, the style tokens, count less.
"""

from dataclasses import replace
from typing import Literal

from pydantic import Field
from torch import Tensor

from student_trainer.losses.base import StudentLogProbs, Targets, TeacherNeeds
from student_trainer.losses.distillation import Distillation, DistilledTokens, on_support
from student_trainer.losses.divergence import closed, jsd_terms, kl_terms
from student_trainer.losses.opsd import OpsdSettings, clamped_divergence


class OpsdEctrConfig(OpsdSettings):
    """Hyperparameters of `opsd_ectr`; the defaults are the paper's."""

    kind: Literal["opsd_ectr"] = "opsd_ectr"
    """The method's name."""
    alpha: float = Field(0.5, ge=0)
    """Strength α of the contrast in the target; 0 leaves the teacher under the correct hint."""
    log_w_floor: float = Field(-5.0, le=0)
    """Log probs under the wrong hint count as at least this, in nats: what a wrong hint makes very
    improbable is not pushed up without bound."""
    cw_tau: float = Field(1.0, ge=0)
    """Scale τ of the token weight KL/(KL + τ), in nats; 0 weighs all tokens alike."""

    def build(self) -> "OpsdEctr":
        """The method."""
        return OpsdEctr(self)


class OpsdEctr(Distillation):
    """See the module."""

    def __init__(self, config: OpsdEctrConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def needs(self) -> TeacherNeeds:
        """The teacher's top-k under the correct hint, and the same tokens under one wrong hint."""
        return TeacherNeeds(
            reads="both_hints", wrong_hints=1, teacher_top_k=self.config.top_k_distill
        )

    def distill(self, student: StudentLogProbs, targets: Targets, where: Tensor) -> DistilledTokens:
        """The clamped divergence to the contrasted target, times the token's weight."""
        config = self.config
        if targets.wrong_support is None:
            raise ValueError("opsd_ectr needs the support's log probs under a wrong hint")
        ours, correct, wrong = (
            closed(log_probs, tail=config.distill_add_tail)
            for log_probs in (*on_support(student, targets, where), targets.wrong_support[where])
        )
        target = (1 + config.alpha) * correct - config.alpha * wrong.clamp(min=config.log_w_floor)
        tokens = clamped_divergence(
            jsd_terms(ours, target.log_softmax(-1), config.beta), config.jsd_token_clip
        )
        if not config.cw_tau:
            return tokens
        difference = kl_terms(correct, wrong).sum(-1).clamp(min=0)
        weight = difference / (difference + config.cw_tau)
        return replace(tokens, loss=tokens.loss * weight, metrics={"signal/active_share": weight})
