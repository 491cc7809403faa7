"""Which weights the teacher scores with, and how the student's become the teacher's.

The teacher is stateless: a job names the weights that it wants. A run publishes them as a
safetensors file where teachers can read it, and its next jobs name that file.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from safetensors.torch import save_file
from transformers import PreTrainedModel

from counterhint import Weights
from student_trainer.config import Config


class FixedTeacherConfig(Config):
    """The teacher server's own weights, always."""

    kind: Literal["fixed"] = "fixed"
    """The rule's name."""

    def due(self, steps_done: int) -> bool:
        """Never."""
        return False


class SnapshotTeacherConfig(Config):
    """The student's weights, copied every few steps; the teacher server's own before that."""

    kind: Literal["snapshot"] = "snapshot"
    """The rule's name."""
    every: int = Field(10, ge=1)
    """Steps between two copies."""

    def due(self, steps_done: int) -> bool:
        """Whether the weights are to be published after that many steps."""
        return steps_done % self.every == 0


TeacherRefreshConfig = Annotated[
    FixedTeacherConfig | SnapshotTeacherConfig, Field(discriminator="kind")
]


def publish_weights(
    model: PreTrainedModel, folder: Path, *, run_id: str, steps_done: int
) -> Weights:
    """Writes the model's weights as `folder/step-000010.safetensors` and names them.

    The file appears under its name only when it is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{steps_done:06d}.safetensors"
    unfinished = file.with_suffix(".unfinished")
    # Parameters, not the state dict: tied weights are one parameter, and are stored once.
    save_file({name: value.detach() for name, value in model.named_parameters()}, unfinished)
    with unfinished.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    unfinished.rename(file)
    return Weights(
        name=run_id,
        revision=f"step-{steps_done:06d}-{digest[:12]}",
        uri=file.resolve().as_uri(),
        sha256=digest,
    )


def prune_weights(folder: Path, named: Iterable[Weights | None]) -> None:
    """Removes published files that nobody names any more.

    Args:
        folder: where they are.
        named: what stays: the weights of every checkpoint that a run may go on from.
    """
    uris = {weights.uri for weights in named if weights is not None}
    for file in folder.glob("step-*.safetensors"):
        if file.resolve().as_uri() not in uris:
            file.unlink()
