"""`rlcsd`: the verifier's reward, modulated token by token by the contrast between correct and
wrong hints (arXiv 2606.11709).

Tokens whose modulation is large enough are *selected*. They are trained with the modulated
advantage, all others with the plain one, and each of the two paths is a mean over its own tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
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


class RlcsdConfig(Config):
    """Hyperparameters of `rlcsd`; the defaults are the paper's."""

    kind: Literal["rlcsd"] = "rlcsd"
    """The method's name."""
    epsilon: float = Field(0.2, gt=0, lt=1)
    """Clip range of the ratio."""
    tau: float = Field(0.02, gt=0)
    """Temperature τ of the tanh that squashes the contrast, in nats."""
    beta: float = 1.0
    """Weight β of the contrast."""
    lam: float = Field(0.5, ge=0)
    """Scale λ of the modulation."""
    delta: float = Field(0.02, ge=0)
    """A token is selected when its modulation exceeds δ in size."""
    eta: float = Field(1.0, ge=0)
    """Weight η of the path of the selected tokens."""
    residual_clip_low: float = -2.0
    """Smallest modulation."""
    residual_clip_high: float = 2.0
    """Largest modulation."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.residual_clip_low < self.residual_clip_high:
            raise ValueError(
                f"residual_clip_low ({self.residual_clip_low}) must be below "
                f"residual_clip_high ({self.residual_clip_high})"
            )
        return self

    def build(self) -> "Rlcsd":
        """The method."""
        return Rlcsd(self)


@dataclass(frozen=True, slots=True)
class Modulation:
    """What the contrast does to each token; every tensor is `[B, T]`."""

    contrast: Tensor
    """e_ctr in nats; 0 where a rollout has no hints."""
    residual: Tensor
    """The modulation r."""
    selected: Tensor
    """bool: response tokens whose modulation is large enough."""
    advantages: Tensor
    """A + r on selected tokens, never across A's sign; A elsewhere."""


def contrast(correct: Tensor, wrong: Tensor, wrong_valid: Tensor) -> Tensor:
    """e_ctr = log p(correct) − log mean_k p(wrong k) over the valid k; 0 for rollouts without any.

    Args:
        correct: `[B, T]`.
        wrong: `[B, K, T]`.
        wrong_valid: bool `[B, K]`.

    Returns:
        `[B, T]`, in nats.
    """
    present = wrong.masked_fill(~wrong_valid[..., None], -torch.inf)
    count = wrong_valid.sum(dim=1, keepdim=True)
    # A finite stand-in keeps rollouts without hints out of inf - inf; `where` drops them after.
    has_wrong = count > 0
    log_mean = torch.where(has_wrong[..., None], present, 0.0).logsumexp(dim=1)
    log_mean = log_mean - count.clamp(min=1).to(correct.dtype).log()
    return torch.where(has_wrong, correct - log_mean, 0.0)


class Rlcsd(Method):
    """See the module."""

    def __init__(self, config: RlcsdConfig) -> None:
        self.config = config

    @property
    def needs(self) -> TeacherNeeds:
        """The sampled tokens' log probs under all hints."""
        return TeacherNeeds(reads="both_hints", sampled=True)

    def modulate(self, targets: Targets) -> Modulation:
        """The modulation of each token. Needs `teacher`, `wrong` and `wrong_valid`."""
        if targets.teacher is None or targets.wrong is None or targets.wrong_valid is None:
            raise ValueError("rlcsd needs the teacher's log probs under correct and wrong hints")
        config, advantages = self.config, targets.advantages.expand(targets.mask.shape)
        e_ctr = contrast(targets.teacher, targets.wrong, targets.wrong_valid)
        e_ctr = torch.where(targets.scored_mask(), e_ctr, 0.0)
        residual = (config.beta * config.lam * torch.tanh(e_ctr / config.tau)).clamp(
            config.residual_clip_low, config.residual_clip_high
        )
        selected = (residual.abs() > config.delta) & targets.scored_mask()
        changed = advantages + residual
        changed = torch.where(advantages > 0, changed.clamp(min=0), changed.clamp(max=0))
        changed = torch.where(advantages == 0, 0.0, changed)
        return Modulation(e_ctr, residual, selected, torch.where(selected, changed, advantages))

    def token_advantages(self, student: StudentLogProbs, targets: Targets) -> TokenAdvantages:
        """A + r on selected tokens."""
        modulation = self.modulate(targets)
        return TokenAdvantages(modulation.advantages, modulation.selected)

    def totals(self, targets: Targets) -> dict[str, Tensor]:
        """Selected and other response tokens are two paths."""
        selected = self.modulate(targets).selected.sum()
        tokens = targets.mask.sum()
        return {"tokens": tokens, "selected": selected, "other": tokens - selected}

    def loss(
        self, student: StudentLogProbs, targets: Targets, totals: Mapping[str, Tensor]
    ) -> LossPiece:
        """Mean over other tokens with A, plus η times the mean over selected tokens with A + r."""
        modulation = self.modulate(targets)
        surrogate = clipped_surrogate(
            student.sampled, targets, modulation.advantages, self.config.epsilon
        )
        per_token = weighted(surrogate.loss, targets)
        selected = modulation.selected
        loss = masked_share(per_token, targets.mask & ~selected, totals["other"])
        loss = loss + self.config.eta * masked_share(per_token, selected, totals["selected"])

        def share(values: Tensor) -> Tensor:
            return masked_share(values, targets.mask, totals["tokens"])

        return LossPiece(
            loss,
            {
                "optim/clip_fraction": share(surrogate.clipped),
                "signal/contrast_abs": share(modulation.contrast.abs()),
                "signal/selected_share": share(selected),
            },
        )
