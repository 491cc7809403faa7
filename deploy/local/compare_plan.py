"""The runs of a comparison: which there are, what each is trained with, which are done."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterhint.errors import InputError
from deploy.local.background import Teacher
from deploy.local.commands import REPOSITORY, Training
from deploy.local.folders import check_recipe
from deploy.local.methods import TeacherName, teacher_for
from deploy.local.provenance import file_digests, read_settings, write_settings

_SETTINGS = (
    "metrics.signals=true",  # the one-sided signal of every method that has a teacher
    "stop_after_unmixed_steps=1000000",  # a collapse is a result: no run is ended for it
)


@dataclass(frozen=True, slots=True)
class Run:
    """One method with one seed."""

    name: str
    """`rlcsd-seed-0`: of its log."""
    training: Training
    """What is trained."""

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.training.run_dir

    @property
    def settings(self) -> dict[str, Any]:
        """What its results depend on: the overrides, and the content of all recipe files."""
        overrides = self.training.overrides
        included = [
            REPOSITORY / override.removeprefix("include=")
            for override in overrides
            if override.startswith("include=")
        ]
        return {
            "overrides": overrides,
            "teacher": self.training.teacher,
            "files": file_digests([self.training.recipe, *included]),
        }

    def is_done(self) -> bool:
        """Whether it ended, with these settings."""
        return (self.folder / "summary.json").is_file() and self._made_with_these()

    def prepare(self) -> str:
        """Makes its folder ready; what belongs to other settings is removed.

        Returns:
            The override with which it starts, or goes on.
        """
        resumes = self._made_with_these() and (self.folder / "checkpoints").is_dir()
        if not resumes:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
            write_settings(self.folder, self.settings)
        return f"resume={str(resumes).lower()}"

    def _made_with_these(self) -> bool:
        return read_settings(self.folder) == self.settings


@dataclass(frozen=True, slots=True)
class ComparePlan:
    """What is to be compared; paths are absolute, for the parts run in another folder."""

    recipe: Path
    """The recipe that the models are made by and that all runs share."""
    out: Path
    """Folder for everything."""
    runs: tuple[Run, ...]
    """Method by method, and seed by seed."""
    parallel: int
    """Runs at the same time."""

    @property
    def models(self) -> Path:
        """Folder of the models."""
        return self.out / "models"

    @property
    def teachers(self) -> list[Teacher]:
        """The teachers that the runs need."""
        used: set[TeacherName] = {run.training.teacher for run in self.runs}
        models = {"self": self.models / "student", "large": self.models / "teacher"}
        return [Teacher(name, models[name], weights_root=self.out) for name in sorted(used)]


def plan_comparison(
    *,
    recipe: Path,
    out: Path,
    methods: Sequence[str],
    seeds: Iterable[int],
    steps: int | None,
    teacher: TeacherName | None,
    settings: Sequence[str],
    parallel: int,
) -> ComparePlan:
    """The runs of a comparison.

    Args:
        recipe: the recipe.
        out: folder for everything.
        methods: names of methods.
        seeds: of each method's runs.
        steps: training steps; the recipe's when None.
        teacher: for all methods; by method when None.
        settings: `key=value` for all methods, `METHOD:key=value` for one.
        parallel: runs at the same time.

    Raises:
        InputError: no such recipe, or a setting that fits none.
    """
    check_recipe(recipe)
    given = [_parse_setting(setting, methods) for setting in settings]
    runs = []
    for method in methods:
        for seed in seeds:
            training = Training(
                recipe=recipe,
                run_dir=out / method / f"seed-{seed}",
                student=out / "models" / "student",
                teacher=teacher_for(method, teacher),
                seed=seed,
                method=method,
                steps=steps,
                settings=(
                    *_SETTINGS,
                    *(setting for one, setting in given if one in (None, method)),
                ),
            )
            runs.append(Run(f"{method}-seed-{seed}", training))
    return ComparePlan(recipe, out, tuple(runs), parallel)


def _parse_setting(setting: str, methods: Sequence[str]) -> tuple[str | None, str]:
    """The method that a setting is for, None for all, and its `key=value`."""
    key, equals, _ = setting.partition("=")
    method, colon, key = key.rpartition(":")
    if not equals or not key:
        raise InputError(
            f"--set {setting}: give key=value or METHOD:key=value, "
            "for example opsd:optimizer.lr=2e-4"
        )
    if colon and method not in methods:
        raise InputError(
            f"--set {setting}: {method!r} is not among the methods of this comparison, "
            f"{', '.join(methods)}"
        )
    return method or None, setting.removeprefix(f"{method}:")
