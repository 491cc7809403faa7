"""The parts of a causal language model that the student's pass runs one by one."""

from torch import nn
from transformers import PreTrainedModel

from counterhint.errors import InputError


def causal_model(model: nn.Module) -> PreTrainedModel:
    """The causal language model itself, also where adapters of peft are around it."""
    adapted = getattr(model, "get_base_model", None)
    found = model if adapted is None else adapted()
    assert isinstance(found, PreTrainedModel)
    return found


def decoder_of(model: nn.Module) -> nn.Module:
    """The part of a model that gives hidden states."""
    return causal_model(model).base_model


def head_of(model: nn.Module) -> nn.Linear:
    """The language model head.

    Raises:
        InputError: it is not a linear map, or adapters are on it.
    """
    head = causal_model(model).get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise InputError(
            f"the head of {type(causal_model(model)).__name__} is a {type(head).__name__}; the "
            "trainer needs a plain linear map: use another model, or leave the head out of the "
            "adapter's target modules"
        )
    return head
