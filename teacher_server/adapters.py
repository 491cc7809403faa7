"""Adapters (LoRA) that jobs name in place of whole weights, checked against the server's model.

The transformers engine puts one into a copy of the model, which shares all weights with it but
those that the adapter changes; for other engines it becomes plain factors.
"""

import copy
from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from counterhint.jobs import Weights
from teacher_server.weights import incompatible

_NAME = "teacher"
_PREFIX = "base_model.model."
_SETTINGS = ("r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern")
"""The settings that say what an adapter computes; others only matter in training, add tensors that
are refused, or are refused themselves."""
_OTHER_METHODS = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "alora_invocation_tokens",
    "layer_replication",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
)
"""Settings of adapters that compute something else."""
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Ways to draw an adapter's first weights that leave the base as it is; of others (PiSSA, OLoRA),
the base is not the model that the adapter was put on."""


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
    adapted = _checked(model, tensors, settings, of)
    for name, parameter in _adapter_parameters(adapted).items():
        # In float32 also where the model is not: merging rounds once.
        parameter.data = tensors[name].to(parameter.device, torch.float32)
    return adapted


def adapter_factors(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], of: Weights
) -> dict[str, Tensor]:
    """The adapter's tensors with each layer's scaling in its `lora_B`, float32: as of an adapter
    whose alpha is its rank, without any other setting.

    Args:
        model: of the server's kind; may be on the meta device.
        tensors: the adapter's, named as in peft's files.
        settings: its `adapter_config.json`.
        of: what the job names.

    Raises:
        WeightsUnavailable: as `adapted_model` does.
    """
    adapted = _checked(model, tensors, settings, of)
    factors: dict[str, Tensor] = {}
    for layer, module in adapted.model.named_modules():
        if isinstance(module, LoraLayer):
            a, b = (f"{_PREFIX}{layer}.lora_{factor}.weight" for factor in "AB")
            factors[a] = tensors[a].to(torch.float32)
            factors[b] = tensors[b].to(torch.float32) * module.scaling[_NAME]
    return factors


def adaptable_layers(model: PreTrainedModel) -> list[str]:
    """The names (`q_proj`) of the linear layers that an adapter may change, but for the head."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
    )


def _checked(
    model: PreTrainedModel, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], of: Weights
) -> LoraModel:
    """A copy of the model with an adapter as the settings describe it, whose weights are still to
    be set: the tensors fit them."""
    _check_method(settings, of)
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
    # Other parameters, but the same memory; what merging changes then gets memory of its own.
    shared = {id(own): nn.Parameter(own.detach(), False) for own in model.parameters()}
    given = {key: settings[key] for key in _SETTINGS if key in settings}
    try:
        adapted = LoraModel(copy.deepcopy(model, shared), peft.LoraConfig(**given), _NAME)
    except (ValueError, TypeError) as error:
        raise incompatible(of, f"its adapter_config cannot be used ({error})") from error
    wanted = _adapter_parameters(adapted)
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
    return adapted


def _check_method(settings: Mapping[str, Any], of: Weights) -> None:
    if settings.get("peft_type") != "LORA":
        raise incompatible(of, f"an adapter of kind {settings.get('peft_type')!r}, not LORA")
    for name in _OTHER_METHODS:
        if settings.get(name):
            raise incompatible(of, f"an adapter with {name}={settings[name]!r} is not supported")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start not in _PLAIN_STARTS:
        raise incompatible(
            of,
            f"its init_lora_weights={start!r} changed the base as well: convert it to an adapter "
            "for the base as it is (peft's path_initial_model_for_weight_conversion)",
        )


def _adapter_parameters(adapted: LoraModel) -> dict[str, nn.Parameter]:
    """The adapter's parameters by their names in peft's files."""
    return {
        _PREFIX + name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in adapted.model.named_parameters()
        if f".{_NAME}." in name
    }


def merge_adapter(adapted: LoraModel) -> PreTrainedModel:
    """The copy with the adapter in its weights, an ordinary model again."""
    # The safe way adds in a copy of each weight; the other would change the server's own.
    merged: Any = adapted.merge_and_unload(safe_merge=True)
    model: PreTrainedModel = merged.requires_grad_(False)
    return model
