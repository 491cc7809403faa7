"""Checkpoints: everything that a run needs to go on as if nothing had happened.

A checkpoint is a model folder in transformers format (so that it can be used as it is) plus
`optimizer.safetensors` and `state.json`. Randomness needs no state: every step draws from its own
seed. Tensors are stored as safetensors, never as pickles.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file

from counterhint import Weights
from counterhint.errors import InputError
from student_trainer.config import Config
from student_trainer.models import Student
from student_trainer.optimizer import Optimizer


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


def save_checkpoint(
    folder: Path, state: TrainingState, student: Student, optimizer: Optimizer, keep: int
) -> Path:
    """Writes `folder/step-000050`, complete or not at all, and removes the oldest beyond `keep`."""
    final = folder / f"step-{state.steps_done:06d}"
    unfinished = folder / f".{final.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    student.model.save_pretrained(unfinished)
    student.tokenizer.save_pretrained(unfinished)
    tensors = {name: value.contiguous() for name, value in optimizer.state_tensors().items()}
    save_file(tensors, unfinished / "optimizer.safetensors")
    (unfinished / "state.json").write_text(json.dumps(asdict(state), indent=2) + "\n")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(unfinished, final)
    for old in sorted(folder.glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder."""
    return max(folder.glob("step-*"), default=None)


def load_checkpoint(checkpoint: Path, student: Student, optimizer: Optimizer) -> TrainingState:
    """Puts student and optimizer where the checkpoint left them.

    Raises:
        InputError: the checkpoint does not fit the student, or lacks a file.
    """
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        if not (checkpoint / name).is_file():
            raise InputError(f"{checkpoint} is no checkpoint: {name} is missing")
    try:
        state = read_state(checkpoint)
        load_model(student.model, checkpoint / "model.safetensors", device=str(student.device))
        optimizer.load_state_tensors(load_file(checkpoint / "optimizer.safetensors"))
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"{checkpoint} is damaged, or of another model than student.model: {error}; remove the "
            "folder to go on from the checkpoint before it, or give the run's own student.model"
        ) from error
    return state


def read_state(checkpoint: Path) -> TrainingState:
    """Where the run stood at a checkpoint."""
    state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    weights = state.pop("weights")
    return TrainingState(weights=Weights(**weights) if weights else None, **state)
