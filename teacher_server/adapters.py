"""Adapters (LoRA) that jobs name in place of whole weights: put into a copy of the server's model.

The copy shares all weights with the server's own model but those that the adapter changes.
"""

import copy
from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from counterhint.jobs import Weights
from teacher_server.weights import incompatible

_NAME = "teacher"
_PREFIX = "base_model.model."
_SETTINGS = ("r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern")
"""The settings that say what an adapter computes; others only matter in training, or add tensors
that are refused."""


def adapted_model(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], of: Weights
) -> LoraModel:
    """A copy of the model with the adapter beside its layers; `merge_adapter` makes use of it.

    Args:
        model: the server's own; stays as it is.
        tensors: the adapter's, named as in peft's files.
        settings: its `adapter_config.json`.
        of: what the job names.

    Raises:
        WeightsUnavailable: WEIGHTS_INCOMPATIBLE, naming the first tensor that does not fit.
    """
    modules = dict(model.named_modules())
    embeddings: Any = model.get_input_embeddings()
    for name in sorted(tensors):
        layer, _, factor = name.removeprefix(_PREFIX).rpartition(".lora_")
        if not name.startswith(_PREFIX) or factor not in ("A.weight", "B.weight"):
            raise incompatible(of, f"tensor {name} is not a linear layer's lora_A or lora_B")
        found = modules.get(layer)
        if not isinstance(found, nn.Linear):
            raise incompatible(
                of, f"tensor {name}: the teacher's model has no linear layer {layer}"
            )
        if found.weight is embeddings.weight:
            raise incompatible(of, f"tensor {name}: the layer shares its weight with another")
    if settings.get("peft_type") != "LORA":
        raise incompatible(of, f"an adapter of kind {settings.get('peft_type')!r}, not LORA")
    # Other parameters, but the same memory; what merging changes then gets memory of its own.
    shared = {id(own): nn.Parameter(own.detach(), False) for own in model.parameters()}
    given = {key: settings[key] for key in _SETTINGS if key in settings}
    try:
        adapted = LoraModel(copy.deepcopy(model, shared), peft.LoraConfig(**given), _NAME)
    except (ValueError, TypeError) as error:
        raise incompatible(of, f"its adapter_config cannot be used ({error})") from error
    wanted = {
        _PREFIX + name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in adapted.model.named_parameters()
        if f".{_NAME}." in name
    }
    for name in sorted(wanted.keys() | tensors.keys()):
        if name not in tensors:
            raise incompatible(of, f"tensor {name} is not in the file")
        if name not in wanted:
            raise incompatible(of, f"tensor {name} is not what its adapter_config describes")
        tensor, parameter = tensors[name], wanted[name]
        if tensor.shape != parameter.shape:
            raise incompatible(
                of,
                f"tensor {name} is {list(tensor.shape)}, but the teacher's model and the "
                f"adapter_config want {list(parameter.shape)}",
            )
        if not bool(tensor.isfinite().all()):
            raise incompatible(of, f"tensor {name} holds values that are not finite")
        # In float32 also where the model is not: merging rounds once.
        parameter.data = tensor.to(parameter.device, torch.float32)
    return adapted


def merge_adapter(adapted: LoraModel) -> PreTrainedModel:
    """The copy with the adapter in its weights, an ordinary model again."""
    # The safe way adds in a copy of each weight; the other would change the server's own.
    merged: Any = adapted.merge_and_unload(safe_merge=True)
    model: PreTrainedModel = merged.requires_grad_(False)
    return model
