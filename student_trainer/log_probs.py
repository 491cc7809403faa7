"""The student's log probs of sampled tokens, from hidden states, a chunk of positions at a time."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from counterhint.errors import InputError

CHUNK_LOGITS = 2**24
"""Most logits that exist at once in float32 (64 MiB), forward and backward."""


def response_log_probs(
    model: PreTrainedModel, input_ids: Tensor, lengths: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """Log probs of response tokens, with gradient.

    Args:
        model: a causal language model.
        input_ids: `[B, S]`: prompt and response, padded at the end.
        lengths: `[B]`: tokens of each row before the padding.
        mask: bool `[B, S]`: the response tokens.
        temperature: the sampler's, by which logits are divided.

    Returns:
        float32 `[N]`: log probs of the tokens in `mask`, row by row.
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    attention_mask = (positions < lengths[:, None]).long()
    hidden = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state
    # The hidden state of a position predicts the next one.
    predicting = hidden[:, :-1][mask[:, 1:]]
    targets = input_ids[mask]
    head = model.get_output_embeddings()
    chunk = max(1, CHUNK_LOGITS // head.weight.shape[0])
    pieces = zip(predicting.split(chunk), targets.split(chunk), strict=True)
    if len(targets) <= chunk:
        return torch.cat([_chunk_log_probs(head, *piece, temperature) for piece in pieces])
    # Recomputing a chunk's logits in the backward pass keeps one chunk of them alive, not all.
    return torch.cat(
        [
            checkpoint(_chunk_log_probs, head, *piece, temperature, use_reentrant=False)
            for piece in pieces
        ]
    )


def _chunk_log_probs(
    head: torch.nn.Module, hidden: Tensor, targets: Tensor, temperature: float
) -> Tensor:
    logits = head(hidden).float() / temperature
    return -functional.cross_entropy(logits, targets, reduction="none")


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuses models whose logits are more than a linear map of the last hidden state.

    Raises:
        InputError: the model scales or caps its logits.
    """
    probe = torch.tensor([[0, 1]], device=model.device)
    hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
    ours = model.get_output_embeddings()(hidden).float()
    theirs = model(input_ids=probe, use_cache=False).logits.float()
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        raise InputError(
            f"{type(model).__name__} scales or caps its logits, which the trainer does not do: "
            "use a model whose head is a linear map"
        )
