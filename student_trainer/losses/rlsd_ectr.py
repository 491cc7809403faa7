"""`rlsd_ectr`: RLSD with the contrast as evidence (as `rlsd_ectr` in the reference of arXiv
2606.11709).

The evidence of a token is how much more probable the correct hint makes it than a wrong hint does;
the student's own log prob plays no part in it.
"""

from typing import Literal

import torch
from torch import Tensor

from student_trainer.losses.base import StudentLogProbs, Targets, TeacherNeeds
from student_trainer.losses.rlsd import Rlsd, RlsdSettings


class RlsdEctrConfig(RlsdSettings):
    """Hyperparameters of `rlsd_ectr`; the defaults are the paper's."""

    kind: Literal["rlsd_ectr"] = "rlsd_ectr"
    """The method's name."""

    def build(self) -> "RlsdEctr":
        """The method."""
        return RlsdEctr(self)


class RlsdEctr(Rlsd):
    """See the module."""

    @property
    def needs(self) -> TeacherNeeds:
        """The sampled tokens' log probs under the correct hint and one wrong hint."""
        return TeacherNeeds(reads="both_hints", wrong_hints=1, sampled=True)

    def evidence(self, student: StudentLogProbs, targets: Targets) -> Tensor:
        """Log prob under the correct hint minus that under the first wrong one, `[B, T]`; 0 for
        rollouts without a wrong hint."""
        if targets.teacher is None or targets.wrong is None or targets.wrong_valid is None:
            raise ValueError("rlsd_ectr needs the teacher's log probs under both hints")
        if not targets.wrong.shape[1]:  # no rollout of the piece has hints
            return torch.zeros_like(targets.teacher)
        difference = targets.teacher - targets.wrong[:, 0]
        return torch.where(targets.wrong_valid[:, :1], difference, 0.0)
