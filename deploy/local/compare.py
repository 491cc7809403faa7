"""Several methods and seeds by one recipe, side by side.

models → Redis, teachers and queue services, shared by all runs → one training run after the other,
or some at a time → the comparison of their folders. A run whose folder says that it ended with the
very same settings is not repeated.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE
from counterhint.errors import InputError
from deploy.local.background import Teacher, background_services, private_folder, scoring_address
from deploy.local.commands import (
    REPOSITORY,
    Training,
    computing_environment,
    counterhint,
    models_command,
    train_command,
)
from deploy.local.folders import check_recipe, claim_folder
from deploy.local.methods import TeacherName, teacher_for
from deploy.local.redis import find_redis_server
from deploy.local.stages import StageFailed, Stages, cursor_restored
from deploy.local.supervisor import Job, Supervisor

MARKER = ".counterhint-compare"
"""A file that the launcher alone writes: a folder of other files without it is never touched."""
_SETTINGS = (
    "metrics.signals=true",  # the one-sided signal of every method that has a teacher
    "stop_after_unmixed_steps=1000000",  # a collapse is a result: no run is ended for it
)
_SETTINGS_FILE = "compare.json"
"""In the folder of a run and of the models: the settings that they were made with."""


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
            "files": _digests([self.training.recipe, *included]),
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
            _write_settings(self.folder, self.settings)
        return f"resume={str(resumes).lower()}"

    def _made_with_these(self) -> bool:
        return _read_settings(self.folder) == self.settings


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


def run_compare(plan: ComparePlan, console: Console) -> list[str]:
    """Runs what is missing and compares all runs.

    Returns:
        Names of the runs that failed; their logs say why.

    Raises:
        InputError: something in the plan, or on this machine, cannot be used.
        StageFailed: the models or the comparison could not be made, or every run failed.
        ServiceFailed: a part in the background cannot be kept running.
    """
    find_redis_server()  # a missing one shows before minutes are spent on the models
    claim_folder(plan.out, MARKER)
    missing = [run for run in plan.runs if not run.is_done()]
    console.print(
        f"[bold]Counterhint compare[/]: {len(plan.runs)} runs by {escape(plan.recipe.name)}, "
        f"{len(plan.runs) - len(missing)} of them there already\n"
        f"folder: {escape(str(plan.out))}\n",
        soft_wrap=True,
    )
    stages = Stages(console, total=4 if missing else 1)
    with (
        cursor_restored(console),
        private_folder() as sockets,
        Supervisor(stages.note, folder=REPOSITORY) as supervisor,
    ):
        if missing:
            _make_models(plan, supervisor, stages, console)
            with stages.stage("services", "one Redis, and each teacher with a queue of its own"):
                logs, environment = plan.out / "logs", computing_environment(threads=1)
                for service in background_services(plan.teachers, sockets, logs, environment):
                    supervisor.start(service)
                supervisor.wait_until_ready()
            failed = _train(plan, missing, sockets, supervisor, stages, console)
        else:
            failed = []
        _compare(plan, supervisor, stages, console)
    return failed


def _make_models(
    plan: ComparePlan, supervisor: Supervisor, stages: Stages, console: Console
) -> None:
    larger = any(teacher.name == "large" for teacher in plan.teachers)
    settings = {"files": _digests([plan.recipe]), "larger_teacher": larger}
    with stages.stage("models", "made on this machine, as the recipe says"):
        made = _read_settings(plan.models)
        if made.get("files") == settings["files"] and made["larger_teacher"] >= larger:
            console.print("  as they are: the recipe has not changed")
            return
        command = models_command(plan.recipe, plan.models, larger_teacher=larger)
        code = supervisor.run(command, computing_environment(threads=1), console.file)
        if code != EXIT_DONE:
            raise StageFailed(f"making the models ended with exit code {code}", code)
        _write_settings(plan.models, settings)


def _train(
    plan: ComparePlan,
    missing: Sequence[Run],
    sockets: Path,
    supervisor: Supervisor,
    stages: Stages,
    console: Console,
) -> list[str]:
    """Trains the runs that are missing; names of those that failed."""
    runs = {run.name: run for run in missing}
    jobs = [
        Job(
            run.name,
            tuple(
                train_command(
                    run.training, scoring_address(sockets, run.training.teacher), run.prepare()
                )
            ),
            plan.out / "logs" / f"{run.name}.log",
            computing_environment(threads=1),
        )
        for run in missing
    ]
    failed: list[str] = []
    ended = 0
    with (
        stages.stage("training", f"{len(jobs)} runs, {plan.parallel} at a time"),
        console.status("") as status,
    ):

        def on_end(job: Job, code: int) -> None:
            nonlocal ended
            ended += 1
            count = f"{ended}/{len(jobs)} {job.name}"
            if code == EXIT_DONE:
                console.print(f"  {count}: {_outcome(runs[job.name].folder)}", highlight=False)
            else:
                failed.append(job.name)
                why = f"exit code {code}; log: {escape(str(job.log))}"
                console.print(f"  [red]{count}: failed[/], {why}", soft_wrap=True)

        def on_look(under_way: Sequence[Job]) -> None:
            status.update(
                ", ".join(f"{job.name} at step {_step(runs[job.name].folder)}" for job in under_way)
            )

        supervisor.run_all(jobs, plan.parallel, on_end, on_look)
    return failed


def _compare(plan: ComparePlan, supervisor: Supervisor, stages: Stages, console: Console) -> None:
    done = [str(run.folder) for run in plan.runs if run.is_done()]
    if not done:
        raise StageFailed("every run failed", EXIT_NEGATIVE)
    with stages.stage("comparison", "table and plots"):
        command = counterhint("report", *done, "--out", str(plan.out))
        code = supervisor.run(command, output=console.file)
        if code != EXIT_DONE:
            raise StageFailed(f"the comparison ended with exit code {code}", code)


def _outcome(run_dir: Path) -> str:
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    before, after = summary["heldout_accuracy_before"], summary["heldout_accuracy_after"]
    return f"held-out accuracy {before:.3f} → {after:.3f} in {summary['seconds_total']:.0f} s"


def _step(run_dir: Path) -> int:
    """Steps that a run has taken."""
    metrics = run_dir / "metrics.jsonl"
    return max(metrics.read_bytes().count(b"\n") - 1, 0) if metrics.is_file() else 0


def _read_settings(folder: Path) -> dict[str, Any]:
    file = folder / _SETTINGS_FILE
    if not file.is_file():
        return {}
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return settings


def _write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    (folder / _SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _digests(files: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of recipe files and of all that they include, by path.

    Raises:
        InputError: one of them cannot be read.
    """
    found: dict[str, str] = {}
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if str(file) in found:
            continue
        if not file.is_file():
            raise InputError(f"there is no file {file}, which a recipe or --set includes")
        content = file.read_bytes()
        found[str(file)] = hashlib.sha256(content).hexdigest()
        try:
            recipe = yaml.safe_load(content)
        except yaml.YAMLError as error:
            raise InputError(f"{file} is not YAML: {error}") from error
        if not isinstance(recipe, dict):
            raise InputError(f"{file} must hold `key: value` lines")
        waiting += [(file.parent / name).resolve() for name in recipe.get("include", [])]
    return found
