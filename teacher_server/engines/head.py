"""From hidden states to log probs, a chunk of rows at a time.

Only response positions come here, as `[n, H]`; logits exist for one chunk of them, in float32, and
never as `[B, T, V]`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

LOGIT_CHUNK = 2**22
"""Logits that are held at once: 16 MiB of float32 stay near a CPU's caches."""
LEAST_ROWS = 128
"""Rows of a chunk however large the vocabulary: with 27, a core took 1.6 times as long for a row
of 151,936 logits, because the head's weights are read anew for each chunk."""


@dataclass(frozen=True, slots=True)
class RowScores:
    """Float32 scores of `n` positions; what was not asked for is None."""

    sampled: Tensor
    """`[n]`: log probs of the tokens that stand there."""
    top_k_ids: Tensor | None
    """`[n, k]`: the most probable ids, best first."""
    top_k_log_probs: Tensor | None
    """`[n, k]`: their log probs."""
    given: Tensor | None
    """`[n, g]`: log probs of the given ids."""
    entropy: Tensor | None
    """`[n]`: in nats."""


class Head:
    """The language model head: hidden state `[n, H]` → logits `[n, V]`, always in float32.

    Knows the two things that models put behind the linear map: a constant factor (Granite's
    `logits_scaling`, Cohere's `logit_scale`) and soft capping (`final_logit_softcapping` of
    Gemma 2).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        linear = model.get_output_embeddings()
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"{type(model).__name__} has no linear head")
        config = model.config.get_text_config()
        self.weight = linear.weight.detach().float()
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self.factor = float(getattr(config, "logit_scale", None) or 1.0)
        self.factor /= float(getattr(config, "logits_scaling", None) or 1.0)
        self.soft_cap: float | None = getattr(config, "final_logit_softcapping", None)

    def logits(self, hidden: Tensor) -> Tensor:
        """`[n, V]` float32 logits of `[n, H]` hidden states."""
        logits = functional.linear(hidden.float(), self.weight, self.bias)
        if self.factor != 1.0:
            logits = logits * self.factor
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits

    def score(
        self,
        hidden: Tensor,
        sampled: Tensor,
        given: Tensor | None = None,
        top_k: int = 0,
        entropy: bool = False,
    ) -> RowScores:
        """Scores of `n` positions.

        Args:
            hidden: `[n, H]` hidden states from which the tokens are predicted.
            sampled: `[n]` int64 ids of the tokens that stand there.
            given: `[n, g]` int64 further ids to score.
            top_k: how many of the most probable ids to return.
            entropy: whether to return the entropy.
        """
        rows = max(LEAST_ROWS, LOGIT_CHUNK // self.weight.shape[0])
        parts = [
            self._score_chunk(
                hidden[start : start + rows],
                sampled[start : start + rows],
                None if given is None else given[start : start + rows],
                top_k,
                entropy,
            )
            for start in range(0, len(hidden), rows)
        ]
        return _joined(parts)

    def _score_chunk(
        self, hidden: Tensor, sampled: Tensor, given: Tensor | None, top_k: int, entropy: bool
    ) -> RowScores:
        return score_logits(self.logits(hidden), sampled, given, top_k, entropy)


def score_logits(
    logits: Tensor, sampled: Tensor, given: Tensor | None, top_k: int, entropy: bool
) -> RowScores:
    """Scores of `n` positions from their float32 logits `[n, V]`."""
    log_probs = torch.log_softmax(logits, dim=-1)
    sampled_log_probs = log_probs.gather(-1, sampled[:, None]).squeeze(-1)
    top_ids = top_log_probs = given_log_probs = entropies = None
    if top_k:
        top_ids = logits.topk(top_k, dim=-1).indices  # differences below rounding are kept there
        top_log_probs = log_probs.gather(-1, top_ids)
    if given is not None:
        given_log_probs = log_probs.gather(-1, given)
    if entropy:
        entropies = -(log_probs.exp() * log_probs).sum(-1)
    return RowScores(sampled_log_probs, top_ids, top_log_probs, given_log_probs, entropies)


def _joined(parts: Sequence[RowScores]) -> RowScores:
    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return RowScores(**{field.name: column(field.name) for field in fields(RowScores)})
