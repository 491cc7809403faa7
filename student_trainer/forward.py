"""The student's pass for a loss: from a batch of tokens to the scores of its response tokens."""

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from counterhint.errors import InputError
from student_trainer.batches import TokenBatch
from student_trainer.log_probs import LogitMap, TokenScores, token_scores
from student_trainer.model_parts import causal_model, decoder_of, head_of


class StudentForward(nn.Module):
    """Wraps the model, so that all its parameters are used within one `forward`: FSDP is applied
    to this module as its root.

    The model stays in evaluation mode: dropout would part it from what was sampled.

    Args:
        model: a causal language model, or one with adapters of peft.
        temperature: the sampler's, by which logits are divided.
        gradient_checkpointing: keep only each layer's input for the backward pass, and compute the
            layer anew there.

    Raises:
        InputError: the model's head is not a plain linear map, or its layers cannot be
            checkpointed.
    """

    def __init__(
        self, model: nn.Module, temperature: float = 1.0, *, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        head_of(model)
        self._logit_map = LogitMap.of(causal_model(model), temperature)
        if gradient_checkpointing:
            checkpoint_layers(model)

    def forward(
        self, tokens: TokenBatch, support_ids: Tensor | None = None, entropy: bool = False
    ) -> TokenScores:
        """Scores of the N response tokens.

        Args:
            tokens: the batch.
            support_ids: int64 `[N, k]`: further tokens to score at each of them.
            entropy: whether to return the entropy.
        """
        hidden = hidden_states(self.model, tokens)
        return token_scores(
            hidden.flatten(0, 1)[tokens.predicting],
            head_of(self.model),
            tokens.targets,
            support_ids,
            entropy=entropy,
            logit_map=self._logit_map,
        )


def hidden_states(model: nn.Module, tokens: TokenBatch) -> Tensor:
    """The last hidden states, `[B, S, H]`."""
    arguments: dict[str, Tensor | None] = {"attention_mask": tokens.attention_mask}
    if tokens.attention_mask is None:
        # Without a mask, transformers keeps rows apart where the positions begin anew.
        arguments["position_ids"] = tokens.position_ids
    output = decoder_of(model)(input_ids=tokens.input_ids, use_cache=False, **arguments)
    hidden: Tensor = output.last_hidden_state
    return hidden


def checkpoint_layers(model: nn.Module) -> None:
    """Makes each layer keep its input only, and compute the rest anew in the backward pass.

    The way that transformers offers works in training mode only, which would turn on dropout.

    Raises:
        InputError: the model's layers are not made for it.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"{type(causal_model(model)).__name__} has no layers that can be checkpointed: set "
            "gradient_checkpointing to false"
        )
    for layer in layers:
        # A bound method, so that a deep copy of the model calls the copy's layers.
        layer.forward = MethodType(_checkpointed_forward, layer)


def _checkpointed_forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(layer).forward, layer)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # No random numbers are drawn in evaluation mode.
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
