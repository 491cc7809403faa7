"""Adapters on a CPU, all neighbouring rows of the same adapter at once.

vLLM's own way for CPUs copies the adapter's factors for every token: on SmolLM2-135M, a job with an
adapter of rank 16 on all layers took nine times as long as one without. This takes its place in the
worker's process.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def add_lora_linear(
    wrapper: Any,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: Sequence[Tensor],
    lora_b_stacked: Sequence[Tensor],
    scale: float,
    output_slices: Sequence[int],
    **others: Any,
) -> None:
    """Adds each row's adapter to the output of a linear layer, in float32; a method of vLLM's
    `PunicaWrapperCPU`.

    Args:
        wrapper: knows which rows have which adapter.
        y: `[n, out]`, changed in place.
        x: `[n, in]`.
        lora_a_stacked: for each part of the output `[places, 1, rank, in]`.
        lora_b_stacked: for each part of the output `[places, 1, part, rank]`.
        scale: of all adapters.
        output_slices: the sizes of the parts.
        others: of other devices.
    """
    if wrapper.no_lora:
        return
    rows_of_y, rows_of_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    starts, lengths, places = wrapper.prefill_metadata[:3]
    runs = zip(starts.tolist(), lengths.tolist(), places.tolist(), strict=True)
    for start, length, place in runs:
        if place < 0:  # rows without an adapter
            continue
        rows = slice(start, start + length)
        given, first = rows_of_x[rows].float(), 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            update = given @ a[place, 0].float().T @ b[place, 0].float().T
            rows_of_y[rows, first : first + width] += (update * scale).to(y.dtype)
            first += width
