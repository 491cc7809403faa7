"""Model FLOPs utilisation: the arithmetic that training needs, over what the GPUs could have done.

Counted as in PaLM (Chowdhery et al., arXiv 2204.02311, appendix B): a token takes 2 FLOPs for each
parameter in the forward pass, 2 in the backward pass to the activations and 2 for each parameter
that is trained, together 6N when all are; attention adds 12 · layers · width · length. What
checkpointing computes again is not counted, nor that causal attention needs only half. Input
embeddings are looked up, not multiplied, and count only where the output layer shares them. In a
mixture of experts all experts count, so the figure is too high there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from transformers import PreTrainedModel

PEAK_TFLOPS: dict[str, float] = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.5,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "A100": 312.0,
    "A10": 125.0,
    "L40S": 362.05,
    "L40": 181.05,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 with float32 sums, in 10¹² FLOPs a second, from the vendor's data sheets. Names as
in `torch.cuda.get_device_name`; the longest one in it counts."""


def peak_tflops(device_name: str) -> float | None:
    """The peak of a GPU by its name; None for one that the table does not hold."""
    words = f" {device_name.replace('-', ' ')} "
    found = [name for name in PEAK_TFLOPS if f" {name} " in words]
    return PEAK_TFLOPS[max(found, key=len)] if found else None


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """What a model's training costs."""

    parameters: int
    """Parameters that are multiplied with."""
    trained: int
    """How many of them are trained."""
    layers: int
    """Attention layers."""
    attention_width: int
    """Heads times the width of a head."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> Self:
        """Counts a model's parameters, adapters included."""
        config = model.config.get_text_config()
        embedding = model.get_input_embeddings().weight
        tied = embedding is model.get_output_embeddings().weight
        heads = config.num_attention_heads
        head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
        counted = [p for p in model.parameters() if tied or p is not embedding]
        return cls(
            parameters=sum(parameter.numel() for parameter in counted),
            trained=sum(parameter.numel() for parameter in counted if parameter.requires_grad),
            layers=config.num_hidden_layers,
            attention_width=heads * head_width,
        )

    def training(self, lengths: Sequence[int]) -> float:
        """FLOPs of one forward and backward pass over sequences of these lengths."""
        linear = 4 * self.parameters + 2 * self.trained
        attention = 12 * self.layers * self.attention_width
        return float(sum(length * (linear + attention * length) for length in lengths))


class Utilisation:
    """Turns the lengths that a step trained on into a share of the GPUs' peak.

    Args:
        model: the student.
        devices: GPUs of the run.
        tflops: peak of one of them, in 10¹² FLOPs a second.
    """

    def __init__(self, model: PreTrainedModel, devices: int, tflops: float) -> None:
        self._flops = ModelFlops.of(model)
        self._peak = devices * tflops * 1e12

    def metrics(self, lengths: Sequence[int], update_seconds: float) -> dict[str, float]:
        """The utilisation of a step's updates.

        Args:
            lengths: tokens, prompt included, of each row trained on, by all ranks.
            update_seconds: time that the updates took.
        """
        return {"time/mfu": self._flops.training(lengths) / (update_seconds * self._peak)}


def utilisation(
    model: PreTrainedModel, device: torch.device, devices: int, tflops: float | None
) -> Utilisation | None:
    """What to measure a run's utilisation with; None on a CPU, and on GPUs of unknown peak.

    Args:
        model: the student.
        device: that it trains on.
        devices: GPUs of the run.
        tflops: peak of one of them, where the recipe gives it.
    """
    if device.type != "cuda":
        return None
    peak = tflops if tflops is not None else peak_tflops(torch.cuda.get_device_name(device))
    return None if peak is None else Utilisation(model, devices, peak)
