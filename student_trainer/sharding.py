"""A student divided over the ranks of a run by FSDP2, one piece a decoder layer.

Each rank holds a part of every weight, its gradient and the optimizer's state. A layer's whole
weights exist while it computes. Gradients are summed over the ranks, not averaged: losses are
normalised by totals of the whole batch already. With one rank nothing is divided.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from counterhint.errors import InputError
from student_trainer.batches import TokenBatch
from student_trainer.forward import StudentForward
from student_trainer.lora import initial_adapter
from student_trainer.models import Student, load_weights
from student_trainer.ranks import Ranks
from student_trainer.shards import place


def shard(forward: StudentForward, student: Student, ranks: Ranks) -> None:
    """Divides a student that has shapes only, and loads each rank's part of its weights.

    Collective. To be called before the optimizer takes the parameters: they are others afterwards.

    Args:
        forward: the student's pass, all of whose parameters are divided.
        student: as `load_student` gave it to several ranks.
        ranks: the processes of the run; does nothing with one.

    Raises:
        InputError: the model has no decoder layers that can be told.
    """
    if ranks.count == 1:
        return
    assert student.folder is not None
    layers = [
        layer for layer in student.model.modules() if isinstance(layer, GradientCheckpointingLayer)
    ]
    if not layers:
        raise InputError(
            f"{type(student.model).__name__} has no layers that it can be divided by: train it "
            "with one process"
        )
    mesh = init_device_mesh(student.device.type, (ranks.count,))
    half = student.dtype != torch.float32
    policy = MixedPrecisionPolicy(
        param_dtype=student.dtype if half else None, reduce_dtype=torch.float32
    )
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # By default the root's weights would stay whole until a backward pass, and be taken for the
    # student's own after a pass without.
    fully_shard(forward, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for part in _parts(forward):
        part.set_gradient_divide_factor(1.0)
        # Without it, gloo would be asked for a product and sum in one, which it cannot do.
        part.set_force_sum_reduction_for_comms(True)
    student.model.to_empty(device=student.device)
    load_weights(student, student.folder, ranks)
    if student.lora is not None:
        parameters = student.trainable()
        for name, value in initial_adapter(student.model, student.lora.seed).items():
            place(parameters[name], value, ranks)
    with torch.no_grad():  # FSDP takes the first module that runs for the root of all
        forward(idle_batch(student.device))


def sum_gradients(forward: StudentForward, student: Student, *, last: bool) -> None:
    """Decides what the next backward pass does with the gradients that it adds.

    They are summed over the ranks in each pass, or, with `whole_gradients`, in the last of an
    update only: until then every rank holds a whole gradient of its own.
    """
    for root in _parts(forward)[:1]:
        root.set_requires_gradient_sync(last or not student.whole_gradients)


@contextmanager
def gathered(forward: StudentForward) -> Iterator[None]:
    """Within it every rank holds the whole model, in the precision of its passes.

    Entering is collective. Inside, each rank may run the model or its parts as often as it likes,
    without gradient. Memory: the whole weights once more.
    """
    parts = _parts(forward)
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def idle_batch(device: torch.device) -> TokenBatch:
    """The shortest possible batch, for a pass of a rank that has nothing left while others have."""
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    one = torch.zeros(1, dtype=torch.long, device=device)
    positions = torch.arange(2, device=device)[None]
    return TokenBatch(ids, positions, None, predicting=one, targets=one)


def _parts(forward: nn.Module) -> list[FSDPModule]:
    """The root and the layers that are divided, the root first."""
    return [module for module in forward.modules() if isinstance(module, FSDPModule)]
