"""Which weights the teacher scores with, and how the student's become the teacher's.

The teacher is stateless: a job names the weights that it wants. A run publishes them as a
safetensors file where teachers can read it, and its next jobs name that file. With an adapter only
the adapter is published: peft's tensors, and its configuration in the file's metadata.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from counterhint import Weights
from counterhint.errors import InputError
from counterhint.jobs import ADAPTER_METADATA, TeacherInfo
from student_trainer.config import Config
from student_trainer.lora import adapter_settings
from student_trainer.model_parts import causal_model
from student_trainer.models import Student
from student_trainer.ranks import Ranks
from student_trainer.shards import local


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


class LiveTeacherConfig(Config):
    """The student's weights, copied after every step."""

    kind: Literal["live"] = "live"
    """The rule's name."""

    def due(self, steps_done: int) -> bool:
        """Always."""
        return True


class EmaTeacherConfig(Config):
    """An exponential moving average of the student's weights, from those that it starts with."""

    kind: Literal["ema"] = "ema"
    """The rule's name."""
    decay: float = Field(0.95, ge=0, lt=1)
    """After each step, average = decay · average + (1 − decay) · student."""
    every: int = Field(1, ge=1)
    """Steps between two times that the average is published."""

    def due(self, steps_done: int) -> bool:
        """Whether the average is to be published after that many steps."""
        return steps_done % self.every == 0


TeacherRefreshConfig = Annotated[
    FixedTeacherConfig | SnapshotTeacherConfig | LiveTeacherConfig | EmaTeacherConfig,
    Field(discriminator="kind"),
]


def check_published_weights_fit(
    config: TeacherRefreshConfig, student: Student, teacher: TeacherInfo
) -> None:
    """Refuses a student whose weights the teacher could not load once they are published.

    An adapter has no row a token, so only whole models are looked at. Other differences show when
    the teacher reads the first file: it refuses with `WEIGHTS_INCOMPATIBLE`.

    Raises:
        InputError: their vocabularies differ in size.
    """
    if config.kind == "fixed" or student.lora is not None:
        return
    rows = causal_model(student.model).config.get_text_config().vocab_size
    if rows != teacher.vocab_size:
        raise InputError(
            f"teacher_refresh.kind is {config.kind}, but the student has a vocabulary of {rows}, "
            f"the teacher {teacher.model_id} one of {teacher.vocab_size}, and could not load the "
            "student's weights: serve the student's own model as teacher, or set "
            "teacher_refresh.kind=fixed"
        )


class TeacherWeights:
    """A run's rule, with what it has to remember.

    Collective: all ranks must make and call it alike.

    Args:
        config: the rule.
        student: as it is before the first step.
        folder: where files are published.
        run_id: the name of the published weights.
        ranks: the processes of the run.
    """

    def __init__(
        self,
        config: TeacherRefreshConfig,
        student: Student,
        folder: Path,
        run_id: str,
        ranks: Ranks,
    ) -> None:
        self._config = config
        self._folder = folder
        self._run_id = run_id
        self._ranks = ranks
        self._average: dict[str, Tensor] = {}
        if isinstance(config, EmaTeacherConfig):
            # Of an adapter, its two factors are averaged, each by itself.
            self._average = {
                name: parameter.detach().clone() for name, parameter in student.trainable().items()
            }

    def after_step(self, student: Student, steps_done: int) -> Weights | None:
        """To be called after every step.

        Returns:
            The weights that the next jobs name, on every rank; None when they stay as they are.
        """
        if isinstance(self._config, EmaTeacherConfig):
            new = [parameter.detach() for parameter in student.trainable().values()]
            torch._foreach_lerp_(
                [local(average) for average in self._average.values()],
                [local(parameter) for parameter in new],
                1 - self._config.decay,
            )
        if not self._config.due(steps_done):
            return None
        return publish_weights(
            student,
            self._average,
            self._folder,
            run_id=self._run_id,
            steps_done=steps_done,
            ranks=self._ranks,
        )

    def state_tensors(self) -> dict[str, Tensor]:
        """What it remembers, by parameter name, in float32; checkpoints are read into it."""
        return self._average


def publish_weights(
    student: Student,
    replaced: Mapping[str, Tensor],
    folder: Path,
    *,
    run_id: str,
    steps_done: int,
    ranks: Ranks,
) -> Weights:
    """Writes weights as `folder/step-000010.safetensors`, on the first rank, and names them.

    The file appears under its name only when it is complete. A whole model is written in the
    precision of the student's passes, an adapter in float32. Collective.

    Args:
        student: whose weights they are.
        replaced: values in place of its trainable parameters; empty for its own.
        folder: where the file goes.
        run_id: the name of the weights.
        steps_done: their revision, with the file's hash.
        ranks: the processes of the run.
    """
    if student.lora is None:
        metadata = {"format": "pt"}
        dtype = student.dtype
        named = student.full_tensors(replaced)
    else:
        metadata = {"format": "pt", ADAPTER_METADATA: json.dumps(adapter_settings(student.model))}
        dtype = torch.float32
        named = student.adapter_tensors(replaced)
    tensors = {}
    for name, tensor in named:  # every rank takes part in gathering them
        if ranks.first:
            tensors[name] = tensor.to("cpu", dtype).contiguous()
    weights = None
    if ranks.first:
        weights = _write(tensors, metadata, folder / f"step-{steps_done:06d}.safetensors", run_id)
    named_weights = ranks.from_first(weights)
    assert named_weights is not None
    return named_weights


def _write(
    tensors: dict[str, Tensor], metadata: dict[str, str], file: Path, run_id: str
) -> Weights:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata)
    with unfinished.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    unfinished.rename(file)
    return Weights(
        name=run_id,
        revision=f"{file.stem}-{digest[:12]}",
        uri=file.resolve().as_uri(),
        sha256=digest,
    )


def prune_weights(folder: Path, named: Iterable[Weights | None]) -> None:
    """Removes published files that nobody names any more, and what a killed run left unfinished.

    Args:
        folder: where they are.
        named: what stays: the weights of every checkpoint that a run may go on from.
    """
    uris = {weights.uri for weights in named if weights is not None}
    for file in folder.glob("step-*"):
        if file.resolve().as_uri() not in uris:
            file.unlink()
