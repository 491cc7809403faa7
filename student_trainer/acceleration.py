"""Faster kernels for the student's layers: the attention's implementation, and Liger's."""

from importlib.util import find_spec
from typing import Literal

import torch
from transformers import PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel
from transformers.utils.import_utils import is_flash_attn_2_available

from counterhint.errors import InputError

Attention = Literal["auto", "sdpa", "flash_attention_2", "eager"]
"""Values of `student.attention`. auto: flash attention where it is installed and can be used, else
what transformers takes for the model."""

Liger = Literal["auto", "on", "off"]
"""Values of `student.liger`. auto: on a GPU, where the package is installed and knows the model."""

FLASH = "flash_attention_2"


def apply_attention(
    model: PreTrainedModel, wanted: Attention, precision: torch.dtype, device: torch.device
) -> str:
    """Sets the attention's implementation.

    Args:
        model: the model.
        wanted: which.
        precision: of the student's passes; flash attention exists in half precision only.
        device: where the model will run; it may not be there yet.

    Returns:
        The implementation that the model has now.

    Raises:
        InputError: it cannot be had here, or the model does not have it.
    """
    obstacle = _flash_obstacle(device, precision)
    if wanted == "auto":
        if obstacle is None and model._supports_flash_attn:
            model.set_attn_implementation(FLASH)
        return str(model.config._attn_implementation)
    if wanted == FLASH and obstacle is not None:
        raise InputError(f"student.attention is {FLASH}, but {obstacle}, or set it to auto")
    refusal = InputError(
        f"student.attention is {wanted}, which {type(model).__name__} does not have: set it to auto"
    )
    try:
        model.set_attn_implementation(wanted)
    except ValueError as error:
        raise refusal from error
    if model.config._attn_implementation != wanted:  # transformers only warns of some models
        raise refusal
    return wanted


def _flash_obstacle(device: torch.device, precision: torch.dtype) -> str | None:
    """Why flash attention cannot be used, with the remedy."""
    if device.type != "cuda":
        return f"the student runs on {device.type}: it needs a GPU"
    if precision not in (torch.bfloat16, torch.float16):
        return "it computes in half precision: set student.dtype to bfloat16"
    if not is_flash_attn_2_available():
        return "it is not installed: pip install flash-attn --no-build-isolation"
    return None


def apply_liger(model: PreTrainedModel, wanted: Liger, device: torch.device) -> bool:
    """Replaces normalisation, rotary embedding and MLP of a model's layers by Liger's kernels.

    Its fused loss is not used: the trainer has its own (`log_probs`). The kernels replace classes
    of transformers too, so models of the same family that are loaded later have them as well.

    Args:
        model: the model.
        wanted: whether.
        device: where the model will run; it may not be there yet.

    Returns:
        Whether the model has them now.

    Raises:
        InputError: they are asked for and cannot be had.
    """
    if wanted == "off":
        return False
    obstacle = _liger_obstacle(model, device)
    if obstacle is not None:
        if wanted == "on":
            raise InputError(f"student.liger is on, but {obstacle}")
        return False
    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    return True


def _liger_obstacle(model: PreTrainedModel, device: torch.device) -> str | None:
    """Why Liger cannot be used, with the remedy."""
    if device.type != "cuda":
        return f"the student runs on {device.type}: its kernels need a GPU; set it to auto"
    if find_spec("liger_kernel") is None:
        return "it is not installed: pip install liger-kernel, or set it to auto"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"it has no kernels for models of type {model.config.model_type}: set it to auto"
    return None
