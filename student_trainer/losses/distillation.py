"""What methods share that pull the student's distribution at each token to a target's."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor

from student_trainer.losses.base import (
    LossPiece,
    Method,
    StudentLogProbs,
    Targets,
    masked_share,
    spread,
    weighted,
)
from student_trainer.losses.surrogate import DualClipSettings, Surrogate, dual_clipped_surrogate


class SupportSettings(DualClipSettings):
    """On which tokens distributions are compared. (The clips are those of the tokens that have no
    teacher's numbers.)"""

    top_k_distill: int = Field(100, ge=1)
    """Tokens k of the support."""
    distill_add_tail: bool = True
    """Put all other tokens into one bucket; otherwise both sides are renormalised over the
    support."""


@dataclass(frozen=True, slots=True)
class DistilledTokens:
    """What a method makes of the N tokens with the teacher's numbers; all tensors are `[N]`."""

    loss: Tensor
    """The loss of each, with gradient."""
    divergence: Tensor
    """How far the student is from the target, in nats, before any clip or weight; no gradient."""
    clipped: Tensor
    """bool: whether a clip of the method is in force."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Further values to average over these tokens, by the metric's name."""


class Distillation(Method):
    """One path: the token mean of a distillation loss on tokens with the teacher's numbers, and of
    the reward's loss on the others."""

    def __init__(self, clips: DualClipSettings) -> None:
        self._clips = clips

    @abstractmethod
    def distill(self, student: StudentLogProbs, targets: Targets, where: Tensor) -> DistilledTokens:
        """The loss of the tokens with the teacher's numbers.

        Args:
            student: the student's log probs, with gradient.
            targets: the piece's targets.
            where: bool `[B, T]`: those tokens, N of them.
        """

    def reward(self, student: StudentLogProbs, targets: Targets, where: Tensor) -> Surrogate:
        """What the verifier's reward adds to the loss of each token: the dual-clipped surrogate of
        tokens without the teacher's numbers, nothing at the others.

        Args: as `distill`.
        """
        plain = dual_clipped_surrogate(student.sampled, targets, targets.advantages, self._clips)
        return Surrogate(torch.where(where, 0.0, plain.loss), plain.clipped & ~where)

    def totals(self, targets: Targets) -> dict[str, Tensor]:
        """Response tokens, and those of them that are distilled."""
        return {"tokens": targets.mask.sum(), "distilled": targets.scored_mask().sum()}

    def loss(
        self, student: StudentLogProbs, targets: Targets, totals: Mapping[str, Tensor]
    ) -> LossPiece:
        """Token mean over distilled and other tokens."""
        where = targets.scored_mask()
        tokens = self.distill(student, targets, where)
        reward = self.reward(student, targets, where)
        averaged = {"signal/divergence": tokens.divergence, **tokens.metrics}
        distilled = totals["distilled"].clamp(min=1)

        def share(values: Tensor) -> Tensor:
            return masked_share(values, targets.mask, totals["tokens"])

        return LossPiece(
            share(weighted(spread(tokens.loss, where) + reward.loss, targets)),
            {
                "optim/clip_fraction": share(spread(tokens.clipped, where) | reward.clipped),
                "signal/distilled_share": share(where),
                **{name: values.sum() / distilled for name, values in averaged.items()},
            },
        )


def on_support(student: StudentLogProbs, targets: Targets, where: Tensor) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's log probs of the support, `[N, k]` each.

    Args:
        student: the student's log probs.
        targets: the teacher's.
        where: bool `[B, T]`: the N tokens that are wanted.
    """
    if student.support is None or targets.teacher_support is None:
        raise ValueError("the method needs student's and teacher's log probs of support tokens")
    return student.support[where], targets.teacher_support[where]


def sampled_pair(
    student: StudentLogProbs, targets: Targets, where: Tensor
) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's log probs of the sampled tokens, `[N]` each.

    Args: as `on_support`.
    """
    if targets.teacher is None:
        raise ValueError("the method needs the teacher's log probs of the sampled tokens")
    return student.sampled[where], targets.teacher[where]
