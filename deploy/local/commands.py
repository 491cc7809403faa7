"""The parts' command lines that the launchers call, as an operator would on several machines."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.methods import TeacherName, method_file

REPOSITORY = Path(__file__).parents[2]
"""Where the parts run: the files that a recipe names are relative to it."""


@dataclass(frozen=True, slots=True)
class Training:
    """One training run; all paths are absolute."""

    recipe: Path
    """The recipe."""
    run_dir: Path
    """The run folder."""
    student: Path
    """Folder of the model to start from."""
    teacher: TeacherName
    """Which teacher scores."""
    seed: int
    """Seed of the run."""
    method: str | None = None
    """Method whose file is laid over the recipe; None leaves the recipe's own."""
    steps: int | None = None
    """Training steps; the recipe's when None."""
    settings: Sequence[str] = ()
    """Further `key=value` of the recipe; they win."""

    @property
    def overrides(self) -> list[str]:
        """What the run's results depend on, as `key=value` of the recipe."""
        values: dict[str, object] = {"student.model": self.student, "seed": self.seed}
        if self.method is not None:
            values["include"] = method_file(self.method, self.recipe)
        if self.steps is not None:
            values["steps"] = self.steps
        if self.teacher == "large":  # the student's weights are not the larger model's
            values["teacher_refresh.kind"] = "fixed"
        return [*(f"{key}={value}" for key, value in values.items()), *self.settings]


def counterhint(*words: str) -> list[str]:
    """The command line `counterhint WORDS` with this interpreter."""
    return [sys.executable, "-m", "deploy.cli", *words]


def models_command(recipe: Path, folder: Path, *, larger_teacher: bool) -> list[str]:
    """Makes the recipe's student, and its larger teacher when that is used, in a folder."""
    command = counterhint("models", "make", str(recipe), "--out", str(folder))
    return command if larger_teacher else [*command, "--only", "student"]


def train_command(training: Training, scoring_address: str, *more: str) -> list[str]:
    """Trains; `more` are further `key=value` that do not change what comes out."""
    return counterhint(
        *("train", str(training.recipe), *training.overrides),
        *(f"run_dir={training.run_dir}", f"scoring.address={scoring_address}", *more),
    )


def computing_environment(threads: int) -> Mapping[str, str]:
    """Variables of the processes that compute; the user's own number of threads is kept."""
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
