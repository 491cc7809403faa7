"""`opd`: on-policy distillation from another, usually larger model, without hints.

Four ways to learn from it (Agarwal et al., arXiv 2306.13649; Lu et al., "On-policy distillation",
Thinking Machines Lab, 2025):

- `policy_gradient`: the estimate log π_S − log π_T of the reverse KL at the sampled token (k1),
  negated, is the token's advantage in the clipped surrogate. In the mean over the tokens that the
  student may sample at a position, this gives the gradient of the reverse KL there; k1 itself,
  taken as a loss, would have a gradient that does not depend on the teacher at all.
- `supervised`: forward KL on the tokens that the teacher finds most probable.
- `reverse_kl`, `jsd`: on the tokens that the student finds most probable. These three are
  differentiated themselves. As advantages they would carry no signal: they are functions of the
  position, the same for whichever token was sampled there.

The verifier's reward can be added, as GRPO's loss times `task_reward`.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from student_trainer.losses.base import StudentLogProbs, Targets, TeacherNeeds, spread
from student_trainer.losses.distillation import (
    Distillation,
    DistilledTokens,
    SupportSettings,
    on_support,
    sampled_pair,
)
from student_trainer.losses.divergence import closed, jsd_terms
from student_trainer.losses.surrogate import Surrogate, dual_clipped_surrogate


class OpdConfig(SupportSettings):
    """Hyperparameters of `opd`."""

    kind: Literal["opd"] = "opd"
    """The method's name."""
    mode: Literal["policy_gradient", "supervised", "reverse_kl", "jsd"] = "policy_gradient"
    """How the student learns from the teacher; see the module."""
    top_k_distill: int = Field(64, ge=1)
    """Tokens k of the support: the teacher's in mode `supervised`, the student's in `reverse_kl`
    and `jsd`; `policy_gradient` has none."""
    jsd_mix: float = Field(0.5, gt=0, lt=1)
    """Mix β of mode `jsd`."""
    max_log_ratio: float = Field(10.0, gt=0)
    """Bound on the size of `policy_gradient`'s advantage, in nats."""
    min_log_prob: float = Field(-10.0, lt=0)
    """Log probs of both sides count as at least this in `policy_gradient`'s advantage."""
    task_reward: float = Field(0.0, ge=0)
    """Weight of the verifier's reward."""

    def build(self) -> "Opd":
        """The method."""
        return Opd(self)


class Opd(Distillation):
    """See the module."""

    def __init__(self, config: OpdConfig) -> None:
        super().__init__(config)
        self.config = config

    @property
    def needs(self) -> TeacherNeeds:
        """By mode: the sampled tokens, the teacher's top-k, or the student's top-k."""
        config = self.config
        return TeacherNeeds(
            reads="problem",
            sampled=config.mode == "policy_gradient",
            teacher_top_k=config.top_k_distill if config.mode == "supervised" else 0,
            student_top_k=config.top_k_distill if config.mode in ("reverse_kl", "jsd") else 0,
        )

    def distill(self, student: StudentLogProbs, targets: Targets, where: Tensor) -> DistilledTokens:
        """The surrogate with k1's advantage, or the divergence to the teacher."""
        config = self.config
        if config.mode == "policy_gradient":
            return self._policy_gradient(student, targets, where)
        ours, teachers = (
            closed(log_probs, tail=config.distill_add_tail)
            for log_probs in on_support(student, targets, where)
        )
        mix = {"supervised": 0.0, "reverse_kl": 1.0, "jsd": config.jsd_mix}[config.mode]
        loss = jsd_terms(ours, teachers, mix).sum(-1)
        return DistilledTokens(
            loss, loss.detach(), clipped=torch.zeros_like(loss, dtype=torch.bool)
        )

    def reward(self, student: StudentLogProbs, targets: Targets, where: Tensor) -> Surrogate:
        """GRPO's loss times `task_reward`, at all tokens; nothing where that is 0."""
        config = self.config
        plain = dual_clipped_surrogate(student.sampled, targets, targets.advantages, config)
        return Surrogate(config.task_reward * plain.loss, plain.clipped & (config.task_reward > 0))

    def _policy_gradient(
        self, student: StudentLogProbs, targets: Targets, where: Tensor
    ) -> DistilledTokens:
        config = self.config
        ours, teachers = sampled_pair(student, targets, where)
        log_ratio = ours.detach() - teachers
        bounded = ours.detach().clamp(min=config.min_log_prob) - teachers.clamp(
            min=config.min_log_prob
        )
        bounded = bounded.clamp(-config.max_log_ratio, config.max_log_ratio)
        surrogate = dual_clipped_surrogate(
            student.sampled, targets, spread(-bounded, where), config
        )
        return DistilledTokens(surrogate.loss[where], log_ratio, surrogate.clipped[where])
