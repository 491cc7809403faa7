"""Checkpoints: everything that a run needs to go on as if nothing had happened.

A checkpoint is a model folder in transformers format, or an adapter folder in peft's, that can be
used as it is. Beside it, each rank writes its part of the optimizer's state
(`optimizer-00001-of-00002.safetensors`) and of the teacher's average where there is one
(`teacher-…`), so that any number of ranks can go on; `state.json` holds the rest. Randomness needs
no state: every step draws from its own seed. Tensors are stored as safetensors, never as pickles.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from counterhint import Weights
from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.lora import adapter_settings, file_name
from student_trainer.models import Student, load_weights
from student_trainer.optimizer import Optimizer
from student_trainer.ranks import Ranks
from student_trainer.shards import load_shards, place, save_shards
from student_trainer.teacher_weights import TeacherWeights


class CheckpointConfig(Config):
    """When the run's state is saved."""

    every: int = Field(50, ge=1)
    """Steps between two checkpoints; the last step always makes one."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints that stay."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Where a run stands between two steps."""

    run_id: str
    """Names the run in the queue; stays the same over resumes."""
    steps_done: int
    """Steps that are finished."""
    seconds: float
    """Seconds of training so far."""
    weights: Weights | None
    """The teacher weights that the next jobs name."""
    totals: dict[str, float]
    """Sums over all steps that the summary needs."""
    idle_steps: int = 0
    """Steps in a row, up to now, that had nothing to learn from."""


def save_checkpoint(
    folder: Path,
    state: TrainingState,
    student: Student,
    optimizer: Optimizer,
    teacher: TeacherWeights,
    keep: int,
    ranks: Ranks,
) -> Path:
    """Writes `folder/step-000050`, complete or not at all, and removes the oldest beyond `keep`.

    Collective. The model itself is gathered and written by the first rank.
    """
    final = folder / f"step-{state.steps_done:06d}"
    unfinished = folder / f".{final.name}.unfinished"
    if ranks.first:
        for left_over in folder.glob(".step-*"):  # of a run that was killed
            shutil.rmtree(left_over)
        unfinished.mkdir(parents=True)
        student.tokenizer.save_pretrained(unfinished)
        (unfinished / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
    ranks.wait()
    _save_model(unfinished, student, ranks)
    save_shards(unfinished, "optimizer", optimizer.state_tensors(), ranks)
    if average := teacher.state_tensors():
        save_shards(unfinished, "teacher", average, ranks)
    ranks.wait()
    if ranks.first:
        if final.exists():
            _remove(final)
        os.replace(unfinished, final)
        for old in sorted(folder.glob("step-*"))[:-keep]:
            _remove(old)
    ranks.wait()
    return final


def _remove(checkpoint: Path) -> None:
    """Removes a checkpoint, out of sight first: a run that is killed meanwhile, and goes on later,
    must not find half of one."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    os.replace(checkpoint, hidden)
    shutil.rmtree(hidden)


def _save_model(folder: Path, student: Student, ranks: Ranks) -> None:
    tensors = {}
    adapted = student.lora is not None
    for name, tensor in student.adapter_tensors() if adapted else student.full_tensors():
        if ranks.first:
            tensors[name] = tensor.cpu().contiguous()
    if not ranks.first:
        return
    if adapted:
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        settings = json.dumps(adapter_settings(student.model), indent=2)
        (folder / "adapter_config.json").write_text(settings + "\n")
    else:
        student.model.save_pretrained(folder, state_dict=tensors)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder."""
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(
    checkpoint: Path,
    student: Student,
    optimizer: Optimizer,
    teacher: TeacherWeights,
    ranks: Ranks,
) -> TrainingState:
    """Puts student, optimizer and the teacher's average where the checkpoint left them.

    Collective; any number of ranks may have saved it.

    Raises:
        InputError: the checkpoint does not fit the student, or lacks a file.
    """
    load_model(checkpoint, student, ranks)
    for needed in ("optimizer-*.safetensors", "state.json"):
        if not any(checkpoint.glob(needed)):
            raise InputError(f"{checkpoint} is no checkpoint: {needed} is missing")
    with _reading(checkpoint):
        state = read_state(checkpoint)
        load_shards(checkpoint, "optimizer", optimizer.state_tensors())
        load_shards(checkpoint, "teacher", teacher.state_tensors())
    return state


def load_model(checkpoint: Path, student: Student, ranks: Ranks) -> None:
    """Puts the student's weights, or its adapter's, where the checkpoint left them. Collective.

    Raises:
        InputError: the folder holds none, or those of another model.
    """
    stem = "model" if student.lora is None else "adapter_model"
    if not any(checkpoint.glob(f"{stem}*.safetensors")):
        raise InputError(f"{checkpoint} is no checkpoint: {stem}*.safetensors is missing")
    with _reading(checkpoint):
        if student.lora is None:
            load_weights(student, checkpoint, ranks)
        else:
            adapter = load_file(checkpoint / "adapter_model.safetensors")
            for name, parameter in student.trainable().items():
                place(parameter, adapter[file_name(name)], ranks)


@contextmanager
def _reading(checkpoint: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"{checkpoint} is damaged, or of another model than student.model: {error}; remove the "
            "folder to go on from the checkpoint before it, or give the run's own student.model"
        ) from error


def read_state(checkpoint: Path) -> TrainingState:
    """Where the run stood at a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    weights = state.pop("weights")
    return TrainingState(weights=Weights(**weights) if weights else None, **state)
