"""What a method is: a token-level loss, and what it needs from the teacher.

To add a method, write one file beside this one with a `Config` subclass (its `kind` is the name
used in recipes) and a `Method` subclass, and list the config in `losses/__init__.py`. Override

- `needs`: what the teacher is asked for; nothing else is computed or sent;
- `totals`: the sums over the whole optimizer batch that the loss is normalised by;
- `loss`: the loss of one piece of the batch, divided by those totals.

Because every path of a loss is divided by a total of the whole optimizer batch, the sum of the
pieces' losses, and so the gradient, does not depend on how the batch is cut into micro-batches or
over processes. A rollout always stands in one piece as a whole.

**Tokens without the teacher's numbers.** `Targets.scored` is False where a rollout has no hints
and is kept all the same (`hints.without_hint: plain`), and where a teacher with another tokenizer
has no log prob for a token. Every method trains such tokens by the verifier's reward alone: by the
clipped surrogate with the plain advantage, with the dual clip where the method has no surrogate of
its own (`distillation.py`, `srpo.py`). They count in the same denominator as the rest; in `rlcsd`,
which has two paths, in that of the tokens that are not selected. `opd`, which knows no advantage
unless `task_reward` is set, gives them a loss of 0.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TeacherNeeds:
    """What a method needs from the teacher."""

    reads: Literal["nothing", "problem", "correct_hint", "both_hints"] = "nothing"
    """What the teacher reads before a response: the problem alone, the problem with the correct
    hint, or that and the wrong hints as well, each by itself."""
    wrong_hints: int | None = None
    """Most wrong hints that the method uses; None leaves it to `hints.max_wrong`."""
    sampled: bool = False
    """The log probs of the sampled tokens."""
    teacher_top_k: int = 0
    """The log probs of the k tokens that the teacher finds most probable (under the correct hint,
    where there is one); wrong hints are asked for the same tokens."""
    student_top_k: int = 0
    """The log probs of the k tokens that the student found most probable when it sampled."""
    entropy: bool = False
    """The entropy of the teacher's distribution (under the correct hint, where there is one)."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What a loss compares the student with; nothing here carries a gradient.

    B rollouts, T positions (padded at the end), K wrong hints (padded), k support tokens. What the
    method does not need is None. "The teacher" reads the response after the correct hint, or after
    the problem alone where a method uses no hints.
    """

    mask: Tensor
    """bool `[B, T]`: response tokens that count."""
    advantages: Tensor
    """`[B, T]` or `[B, 1]`: group-relative advantages."""
    old_log_probs: Tensor
    """`[B, T]`: the student's log probs before the step's updates."""
    step: int = 1
    """The training step, from 1."""
    scored: Tensor | None = None
    """bool `[B, T]`: tokens that the teacher's numbers exist for; all of them when None. A rollout
    without hints has none, and a token that a teacher with another tokenizer cuts otherwise has
    none. What stands in the teacher's tensors there means nothing."""
    teacher: Tensor | None = None
    """`[B, T]`: the teacher's log probs of the sampled tokens."""
    wrong: Tensor | None = None
    """`[B, K, T]`: its log probs of them under the wrong hints."""
    wrong_valid: Tensor | None = None
    """bool `[B, K]`: which of the wrong hints exist."""
    support_ids: Tensor | None = None
    """int64 `[B, T, k]`: the tokens on which distributions are compared."""
    teacher_support: Tensor | None = None
    """`[B, T, k]`: the teacher's log probs of the support tokens."""
    wrong_support: Tensor | None = None
    """`[B, T, k]`: its log probs of them under the first wrong hint."""
    teacher_entropy: Tensor | None = None
    """`[B, T]`: the entropy of the teacher's distribution, in nats."""
    importance: Tensor | None = None
    """`[B, T]`: importance weights between sampler and trainer, times the loss of each token."""

    def scored_mask(self) -> Tensor:
        """bool `[B, T]`: response tokens with the teacher's numbers."""
        return self.mask if self.scored is None else self.mask & self.scored


@dataclass(frozen=True, slots=True)
class StudentLogProbs:
    """The student's log probs in its pass for an update, with gradient."""

    sampled: Tensor
    """`[B, T]`: of the sampled tokens."""
    support: Tensor | None = None
    """`[B, T, k]`: of `Targets.support_ids`; None where there are none."""


@dataclass(frozen=True, slots=True)
class LossPiece:
    """The loss of one piece of the batch."""

    loss: Tensor
    """Scalar; the pieces' losses add up to the batch's."""
    metrics: dict[str, Tensor]
    """Scalars by name, normalised like the loss: the pieces' metrics add up to the batch's."""


@dataclass(frozen=True, slots=True)
class TokenAdvantages:
    """What a method makes of the rollouts' advantages."""

    advantages: Tensor
    """`[B, T]`: the advantage that each token is trained with."""
    selected: Tensor
    """bool `[B, T]`: tokens whose advantage the signal changed."""


class Method(ABC):
    """A token-level loss."""

    @property
    @abstractmethod
    def needs(self) -> TeacherNeeds:
        """What the teacher is asked for."""

    @abstractmethod
    def totals(self, targets: Targets) -> dict[str, Tensor]:
        """Sums over these targets that the loss is normalised by; scalars.

        The trainer adds them up over all pieces of the optimizer batch, on all processes.
        """

    @abstractmethod
    def loss(
        self, student: StudentLogProbs, targets: Targets, totals: Mapping[str, Tensor]
    ) -> LossPiece:
        """The loss of one piece.

        Args:
            student: the student's log probs, with gradient.
            targets: the piece's targets.
            totals: `totals` of the whole optimizer batch.
        """

    def token_advantages(
        self, student: StudentLogProbs, targets: Targets
    ) -> TokenAdvantages | None:
        """What the signal does to the advantages; None for methods that use it in another way."""
        return None


def masked_share(values: Tensor, mask: Tensor, total: Tensor) -> Tensor:
    """The piece's share of a token mean: sum over `mask`, divided by the whole batch's `total`.

    Masked values may be anything, NaN included; an empty path gives 0. The share of booleans is
    that of the True ones.
    """
    return torch.where(mask, values, 0.0).sum() / total.clamp(min=1)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the N tokens in `mask`, `[N]`, at their places in `[B, T]`; 0 elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def weighted(per_token: Tensor, targets: Targets) -> Tensor:
    """The loss of each token times its importance weight, where there are any; `[B, T]`."""
    return per_token if targets.importance is None else per_token * targets.importance
