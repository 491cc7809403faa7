"""The processes of a run: one, or as many as `torchrun` starts.

Every method but `close` is collective: all ranks must call it, in the same order.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


PATIENCE = timedelta(hours=3)
"""How long ranks wait for each other: one may sample, or wait for scores, much longer than others.
`torchrun` ends all of them as soon as one fails."""


class Ranks:
    """This process among those of the run.

    `torchrun` tells each process its place by `RANK`, `WORLD_SIZE` and `LOCAL_RANK`; without them
    the run is one process and nothing is communicated. Processes talk over NCCL on GPUs and over
    gloo elsewhere.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        """0 to `count` − 1."""
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        """Processes of the run."""
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        """Its place among the processes of this machine: the GPU that it takes."""
        if self.count > 1 and not dist.is_initialized():
            # Tensors on the CPU go over gloo on GPU machines too.
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE
            )

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and shows the run."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[tuple[int, T]]:
        """This rank's items with their indices: every `count`-th, beginning with its own rank."""
        return list(enumerate(items))[self.rank :: self.count]

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums by key over all ranks; a rank may lack keys that others have."""
        total: dict[str, float] = {}
        for given in self.gather(dict(values)):
            for key, value in given.items():
                total[key] = total.get(key, 0.0) + value
        return total

    def largest(self, value: int) -> int:
        """The largest of the ranks' values."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return int(tensor)

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, on every rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def gather_at_first(self, value: T) -> list[T]:
        """The values of all ranks, by rank, on the first; an empty list on the others."""
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(value, values)
        return values or []

    def from_first(self, value: T) -> T:
        """The first rank's value, on every rank."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Returns when all ranks are here."""
        if self.count > 1:
            dist.barrier()

    def close(self) -> None:
        """Leaves the run."""
        if dist.is_initialized():
            dist.destroy_process_group()
