"""From the student's hidden states to log probs and entropies, a chunk of positions at a time.

Logits exist for one chunk of positions, forward and backward, never as `[N, V]`: the backward pass
computes a chunk's logits anew and adds its share to the gradients of the hidden states and of the
head. With z a position's logits, p = softmax(z) and H its entropy,

    ∂ log p_v / ∂z = 1_v − p        ∂H / ∂z = −p · (log p + H).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_BYTES = 256 * 2**20
"""Most bytes of one chunk's logits in float32 (441 positions at a vocabulary of 151,936). At most
three tensors of this size exist at once."""


class TokenScores(NamedTuple):
    """Scores of N positions, float32, with gradient. (A named tuple, so that FSDP finds the tensors
    in it.)"""

    sampled: Tensor
    """`[N]`: log probs of the tokens that stand there."""
    support: Tensor | None = None
    """`[N, k]`: log probs of the support tokens, where any were given."""
    entropy: Tensor | None = None
    """`[N]`: in nats, where it was asked for."""


@dataclass(frozen=True, slots=True)
class LogitMap:
    """What a model does to the linear map's output x, and sampling after it: the logits are
    `cap · tanh(factor · x / cap) / temperature`, without the tanh where there is no cap."""

    factor: float = 1.0
    """Constant factor (Granite's `logits_scaling`, Cohere's `logit_scale`)."""
    soft_cap: float | None = None
    """Soft cap (`final_logit_softcapping` of Gemma 2)."""
    temperature: float = 1.0
    """The sampler's temperature."""

    @classmethod
    def of(cls, model: "PreTrainedModel", temperature: float) -> "LogitMap":
        """What a model's configuration says."""
        config = model.config.get_text_config()
        factor = float(getattr(config, "logit_scale", None) or 1.0)
        factor /= float(getattr(config, "logits_scaling", None) or 1.0)
        return cls(factor, getattr(config, "final_logit_softcapping", None), temperature)

    def apply_(self, logits: Tensor) -> Tensor:
        """Turns the linear map's output into logits, in place."""
        if self.soft_cap is None:
            return logits.mul_(self.factor / self.temperature)
        logits.mul_(self.factor / self.soft_cap).tanh_()
        return logits.mul_(self.soft_cap / self.temperature)

    def cap_slope(self, logits: Tensor) -> Tensor | None:
        """∂ logits / ∂x, divided by its constant part `factor / temperature`; None where that is
        all of it."""
        if self.soft_cap is None:
            return None
        return (logits * (self.temperature / self.soft_cap)).square_().neg_().add_(1.0)


def token_scores(
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    support_ids: Tensor | None = None,
    *,
    entropy: bool = False,
    logit_map: LogitMap,
) -> TokenScores:
    """Log probs and entropies at N positions, with gradient to `hidden` and to the head.

    Under autocast, or with weights in half precision, logits are multiplied in that precision; all
    that follows is float32 (float64 for float64 weights).

    Args:
        hidden: `[N, H]`: hidden states that predict the tokens.
        head: the language model head, `[V, H]`; no gradient is computed where it is frozen.
        targets: int64 `[N]`: the tokens that stand there.
        support_ids: int64 `[N, k]`: further tokens to score.
        entropy: whether to return the entropy.
        logit_map: what stands behind the head.
    """
    device = hidden.device.type
    precision = torch.promote_types(hidden.dtype, head.weight.dtype)
    if torch.is_autocast_enabled(device):
        precision = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        outputs = _TokenScores.apply(  # type: ignore[no-untyped-call]
            hidden, head.weight, head.bias, targets, support_ids, entropy, logit_map, precision
        )
    return TokenScores(*outputs)


class _TokenScores(torch.autograd.Function):
    """`token_scores`. The head's weight comes as an argument, so that autograd hands the gradient
    on to whatever holds it (FSDP, tied embeddings)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        support_ids: Tensor | None,
        entropy: bool,
        logit_map: LogitMap,
        precision: torch.dtype,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        chunks = _Chunks(hidden.to(precision), weight, bias, logit_map)
        normalizer = hidden.new_empty(len(hidden), dtype=chunks.wide)
        sampled = torch.empty_like(normalizer)
        entropies = torch.empty_like(normalizer) if entropy else None
        support = None
        if support_ids is not None:
            support = hidden.new_empty(support_ids.shape, dtype=chunks.wide)
        for rows, logits in chunks:
            # What is read from the logits comes first: they are overwritten after.
            sampled[rows] = logits.gather(1, targets[rows, None])[:, 0]
            if support is not None and support_ids is not None:
                support[rows] = logits.gather(1, support_ids[rows])
            largest = logits.amax(1, keepdim=True)
            logits.sub_(largest)
            if entropies is None:
                total = logits.exp_().sum(1)
            else:
                powers = torch.exp(logits, out=chunks.spare(logits))
                total = powers.sum(1)
                entropies[rows] = total.log() - powers.mul_(logits).sum(1) / total
            normalizer[rows] = largest[:, 0] + total.log()
        sampled -= normalizer
        if support is not None:
            support -= normalizer[:, None]
        ctx.save_for_backward(
            chunks.hidden, weight, bias, targets, support_ids, normalizer, entropies
        )
        ctx.logit_map, ctx.hidden_dtype = logit_map, hidden.dtype
        ctx.set_materialize_grads(False)
        return sampled, support, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, support_ids, normalizer, entropies = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        with torch.autocast(hidden.device.type, enabled=False):
            chunks = _Chunks(hidden, weight, bias, ctx.logit_map)
            gradient = _LogitGradient(
                grads, targets, support_ids, normalizer, entropies, ctx.logit_map
            )
            grad_hidden = torch.empty_like(hidden) if wants_hidden else None
            grad_weight = torch.zeros_like(weight, dtype=chunks.wide) if wants_weight else None
            grad_bias = torch.zeros_like(bias, dtype=chunks.wide) if wants_bias else None
            for rows, logits in chunks:
                grad = gradient.of_chunk(rows, logits, chunks)
                if grad_bias is not None:
                    grad_bias += grad.sum(0)
                grad = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(grad, chunks.weight, out=grad_hidden[rows])
                if grad_weight is not None:
                    _add_product(grad_weight, grad, hidden[rows])
        return (
            None if grad_hidden is None else grad_hidden.to(ctx.hidden_dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *[None] * 5,
        )


class _LogitGradient:
    """What comes back to a head's output from the gradients of sampled, support and entropy."""

    def __init__(
        self,
        grads: tuple[Tensor | None, ...],
        targets: Tensor,
        support_ids: Tensor | None,
        normalizer: Tensor,
        entropies: Tensor | None,
        logit_map: LogitMap,
    ) -> None:
        self._targets, self._support_ids = targets, support_ids
        self._normalizer, self._entropies = normalizer, entropies
        self._logit_map = logit_map
        # The constant part of the slope of the logits goes into these small tensors.
        slope = logit_map.factor / logit_map.temperature
        self._sampled, self._support, self._entropy = (
            None if grad is None else grad * slope for grad in grads
        )
        # Σ over a position's tokens of what comes back to their log probs.
        total = torch.zeros_like(normalizer) if self._sampled is None else self._sampled.clone()
        self._all = total if self._support is None else total + self._support.sum(1)

    def of_chunk(self, rows: slice, logits: Tensor, chunks: "_Chunks") -> Tensor:
        """`[rows, V]`, in the memory of the logits."""
        cap_slope = self._logit_map.cap_slope(logits)
        log_probs = logits.sub_(self._normalizer[rows, None])
        to_all = self._all[rows, None]
        if self._entropy is None:
            grad = log_probs.exp_().mul_(-to_all)
        else:
            assert self._entropies is not None
            probs = torch.exp(log_probs, out=chunks.spare(log_probs))
            grad = log_probs.add_(self._entropies[rows, None]).mul_(self._entropy[rows, None])
            grad = grad.add_(to_all).mul_(probs).neg_()
        if self._sampled is not None:
            grad.scatter_add_(1, self._targets[rows, None], self._sampled[rows, None])
        if self._support is not None:
            assert self._support_ids is not None
            grad.scatter_add_(1, self._support_ids[rows], self._support[rows])
        return grad if cap_slope is None else grad.mul_(cap_slope)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds `leftᵀ · right` to `total` in place; a sum in float32 of products in half precision
    takes memory for a part of the product only."""
    if total.dtype == left.dtype:
        total.addmm_(left.t(), right)
        return
    part = max(1, CHUNK_BYTES // right[0].nbytes)
    for sums, columns in zip(total.split(part), left.t().split(part), strict=True):
        sums += columns @ right


class _Chunks:
    """Iterates over the logits of `hidden`, a slice of rows at a time, always in the same memory.

    Multiplies in the precision of `hidden`, and hands out at least float32.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, logit_map: LogitMap
    ) -> None:
        self.hidden = hidden
        self.weight = weight.to(hidden.dtype)
        self.wide = torch.promote_types(hidden.dtype, torch.float32)
        self._bias = None if bias is None else bias.to(self.wide)
        self._logit_map = logit_map
        vocab = len(weight)
        self._rows = max(1, min(len(hidden), CHUNK_BYTES // (4 * vocab)))
        self._product = hidden.new_empty(self._rows, vocab)
        self._logits = self._product
        if self.wide != hidden.dtype:
            self._logits = hidden.new_empty(self._rows, vocab, dtype=self.wide)
        self._spare: Tensor | None = None

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields the rows' slice and their logits `[rows, V]`, to be overwritten at will."""
        for start in range(0, len(self.hidden), self._rows):
            rows = slice(start, min(start + self._rows, len(self.hidden)))
            count = rows.stop - start
            product, logits = self._product[:count], self._logits[:count]
            torch.mm(self.hidden[rows], self.weight.t(), out=product)
            if logits.dtype != product.dtype:
                logits.copy_(product)
            if self._bias is not None:
                logits += self._bias
            yield rows, self._logit_map.apply_(logits)

    def spare(self, logits: Tensor) -> Tensor:
        """Memory of the same shape as a chunk's logits."""
        if self._spare is None:
            self._spare = torch.empty_like(self._logits)
        return self._spare[: len(logits)]
