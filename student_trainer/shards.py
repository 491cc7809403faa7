"""Tensors of which every rank holds a part: rows of the first dimension.

Parameters that FSDP has sharded are `DTensor`s, and so is what is computed from them (gradients,
the optimizer's moments). An ordinary tensor is whole on every rank. On disk, each rank's rows are
a safetensors file that says which rows they are, so that any number of ranks can read what another
number has written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from student_trainer.ranks import Ranks


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, in the tensor's own memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor with the parts of all ranks. Collective for sharded ones."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def place(target: Tensor, value: Tensor | None, ranks: Ranks) -> None:
    """Copies the first rank's whole tensor to all ranks, where each keeps its part. Collective.

    Args:
        target: where it goes.
        value: the whole tensor; None on the other ranks.
        ranks: the processes of the run.

    Raises:
        ValueError: the tensors are of different shapes.
    """
    if value is not None and value.shape != target.shape:
        raise ValueError(f"a tensor is {list(value.shape)}, but must be {list(target.shape)}")
    if value is None:
        value = torch.empty(target.shape, dtype=target.dtype, device=target.device)
    value = value.to(target.device, target.dtype).contiguous()
    if isinstance(target, DTensor):
        parts = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=0)
        target.to_local().copy_(parts.to_local())
        return
    if ranks.count > 1:
        dist.broadcast(value, src=0)
    target.copy_(value)


def save_shards(folder: Path, stem: str, tensors: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Writes this rank's part of each tensor to `folder/<stem>-00001-of-00002.safetensors`.

    What is whole on every rank is written by the first.
    """
    parts = {
        name: local(tensor.detach()).cpu().contiguous()
        for name, tensor in tensors.items()
        if isinstance(tensor, DTensor) or ranks.first
    }
    rows = {name: (_first_row(tensors[name]), _rows(tensors[name])) for name in parts}
    file = folder / f"{stem}-{ranks.rank + 1:05d}-of-{ranks.count:05d}.safetensors"
    save_file(parts, file, {"first_row_of_rows": json.dumps(rows)})


@torch.no_grad()
def load_shards(folder: Path, stem: str, targets: Mapping[str, Tensor]) -> None:
    """Fills this rank's part of each tensor with the rows that any number of ranks has saved.

    Raises:
        ValueError: a tensor is missing, or has another shape.
        SafetensorError: a file is damaged.
    """
    missing = {name: local(target).numel() for name, target in targets.items()}
    for file in sorted(folder.glob(f"{stem}-*-of-*.safetensors")):
        with safe_open(file, "pt") as content:
            saved = json.loads(content.metadata()["first_row_of_rows"])
            for name in sorted(targets.keys() & saved.keys()):
                first, total = saved[name]
                rows = content.get_slice(name)
                if (total, rows.get_shape()[1:]) != (
                    _rows(targets[name]),
                    list(targets[name].shape[1:]),
                ):
                    raise ValueError(f"{name} in {file.name} is of another shape")
                missing[name] -= _copy_rows(rows, first, targets[name])
    if incomplete := sorted(name for name, elements in missing.items() if elements):
        raise ValueError(f"{incomplete[0]} is missing in {stem}-*.safetensors")


def _copy_rows(saved: Any, first: int, target: Tensor) -> int:
    """Copies the saved rows, which begin with row `first`, that are this rank's as well.

    Returns:
        How many elements that were.
    """
    own, begin = local(target), _first_row(target)
    if not own.ndim:
        own.copy_(saved[...])
        return 1
    low, high = max(first, begin), min(first + saved.get_shape()[0], begin + len(own))
    if low >= high:
        return 0
    rows: Tensor = saved[low - first : high - first]
    own[low - begin : high - begin].copy_(rows)
    return rows.numel()


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 1


def _first_row(tensor: Tensor) -> int:
    """The first row of this rank's part: rows are divided as `torch.chunk` does it."""
    if not isinstance(tensor, DTensor):
        return 0
    mesh = tensor.device_mesh
    each = -(-tensor.shape[0] // mesh.size())
    return min(mesh.get_local_rank() * each, tensor.shape[0])
