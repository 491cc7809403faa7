"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: the base stays as it is, the adapter learns.

peft's layers are put into the model itself, so it stays the transformers model that it was, with
other linear layers. In parameter names, `X.weight` becomes `X.base_layer.weight`, beside
`X.lora_A.default.weight` and `X.lora_B.default.weight`.
"""

import math
from pathlib import Path
from typing import Any, Literal

import peft
import torch
from peft.tuners.lora import LoraLayer
from pydantic import Field, field_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from counterhint.errors import InputError
from student_trainer.config import Config

ADAPTER = "default"
"""peft's name of the one adapter."""


class LoraConfig(Config):
    """A low-rank adapter that is trained in place of the whole model."""

    rank: int = Field(16, ge=1)
    """Rank of the update of each weight matrix."""
    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank, or by alpha / √rank with `rslora`."""
    rslora: bool = False
    """Rank-stabilised scaling (arXiv 2312.03732)."""
    dropout: float = 0.0
    """Must be 0."""
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """The linear layers that get an adapter: all of them but the head, or those whose names end
    so (`q_proj`)."""
    seed: int = 0
    """Of the adapter's random half at the start; the other half is 0."""

    @field_validator("dropout")
    @classmethod
    def _none(cls, dropout: float) -> float:
        if dropout != 0:
            raise ValueError(
                "must be 0: dropout in the update would part the student that learns from the one "
                "that sampled, and the ratio between them would be noise"
            )
        return dropout


def add_adapter(model: PreTrainedModel, config: LoraConfig, base: Path) -> None:
    """Puts an adapter into a model, in place, and freezes all else.

    Its weights are those of `initial_adapter`, or on the meta device where the model is there.

    Args:
        model: the student.
        config: the adapter.
        base: folder that the model is from, for the adapter's own configuration.

    Raises:
        InputError: no linear layer of the model is called so, or it is the head.
    """
    targets = config.target_modules
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft computes with floats as well
        use_rslora=config.rslora,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type=peft.TaskType.CAUSAL_LM,
        base_model_name_or_path=str(base.resolve()),
        inference_mode=False,
    )
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = next(n for n, m in model.named_modules() if m is model.get_output_embeddings())
    for target in targets if isinstance(targets, tuple) else ():
        if _ends_so(head, target):
            raise InputError(
                f"student.lora.target_modules: {target!r} is the head, which is trained as it is "
                "or not at all: leave it out"
            )
        if not any(_ends_so(name, target) for name in linear):
            raise InputError(
                f"student.lora.target_modules: no linear layer of {type(model).__name__} is called "
                f"{target!r}; it has {', '.join(sorted({n.rpartition('.')[2] for n in linear}))}"
            )
    on_meta = model.device.type == "meta"
    peft.inject_adapter_in_model(settings, model, ADAPTER, low_cpu_mem_usage=on_meta)
    if not on_meta:
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in initial_adapter(model, config.seed).items():
                named[name].copy_(value)


def _ends_so(name: str, target: str) -> bool:
    """Whether a target names this module, by peft's rule."""
    return name == target or name.endswith(f".{target}")


def adapter_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers that have an adapter, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def adapter_update(layer: LoraLayer) -> Tensor:
    """What an adapter adds to the weight of its layer."""
    peft_layer: Any = layer  # its stubs know this method of some kinds of layers only
    update: Tensor = peft_layer.get_delta_weight(ADAPTER)
    return update


def initial_adapter(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """An adapter's weights at the start, on the CPU, by parameter name: A is uniform as a linear
    layer's weights are, B is 0, so that the model is its base. The same for any number of ranks."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        value = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            nn.init.kaiming_uniform_(value, a=math.sqrt(5), generator=generator)
        weights[name] = value
    return weights


def file_name(parameter_name: str) -> str:
    """The name of an adapter's parameter in peft's files."""
    return "base_model.model." + parameter_name.replace(f".{ADAPTER}.", ".")


def adapter_settings(model: nn.Module) -> dict[str, Any]:
    """The content of the adapter's `adapter_config.json`."""
    configs: Any = model.peft_config
    settings: dict[str, Any] = configs[ADAPTER].to_dict()
    return {
        key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()
    } | {"inference_mode": True}
