"""The whole system in small: every part as a process of its own on this machine.

models → Redis, teacher and queue services → training → report. The parts are called by their
command lines only, as an operator would call them on several machines.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE
from deploy.local.background import (
    Pages,
    Teacher,
    background_services,
    private_folder,
    scoring_address,
)
from deploy.local.commands import (
    REPOSITORY,
    Training,
    computing_environment,
    counterhint,
    models_command,
    train_command,
)
from deploy.local.folders import check_recipe, replace_folder
from deploy.local.methods import TeacherName
from deploy.local.redis import find_redis_server
from deploy.local.stages import StageFailed, Stages, cursor_restored
from deploy.local.supervisor import Supervisor

MARKER = ".counterhint-demo"
"""A file that the launcher alone writes: a run folder without it is never replaced."""
SUMMARY_KEYS = (
    "method",
    "steps",
    "heldout_accuracy_before",
    "heldout_accuracy_after",
    "heldout_samples",
    "response_length_before",
    "response_length_after",
    "entropy_before",
    "entropy_after",
    "seconds_total",
    "seconds_by_stage",
    "scoring_wait_share",
    "tokens_naive",
    "tokens_computed",
    "groups_scored",
)
"""What `summary.json` of a demo must hold."""


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """What a demo is to do; its paths are absolute, for the parts run in another folder."""

    recipe: Path
    """The recipe that the models are made by and the student is trained by."""
    out: Path
    """The run folder."""
    method: str | None
    """Method whose file is laid over the recipe; None leaves the recipe's own."""
    teacher: TeacherName
    """The student's own earlier weights, or the larger model with fixed weights."""
    steps: int | None
    """Training steps; the recipe's when None."""
    seed: int
    """Seed of the training run."""
    settings: Sequence[str]
    """Further `key=value` of the recipe."""
    threads: int
    """CPU threads of the trainer, and of the teacher: both compute at the same time."""

    @property
    def models(self) -> Path:
        """Folder of the models."""
        return self.out / "models"

    @property
    def training(self) -> Training:
        """The run."""
        return Training(
            recipe=self.recipe,
            run_dir=self.out,
            student=self.models / "student",
            teacher=self.teacher,
            seed=self.seed,
            method=self.method,
            steps=self.steps,
            settings=self.settings,
        )

    @property
    def served(self) -> Teacher:
        """The teacher to serve; it reads the weights that the run publishes."""
        model = self.models / ("student" if self.teacher == "self" else "teacher")
        return Teacher(self.teacher, model, weights_root=self.out / "weights")


def run_demo(plan: DemoPlan, console: Console) -> dict[str, Any]:
    """Runs the demo and returns its summary, which is also in `summary.json`.

    Raises:
        InputError: something in the plan, or on this machine, cannot be used.
        StageFailed: a part ended with an error.
        ServiceFailed: a part in the background cannot be kept running.
    """
    find_redis_server()  # a missing one shows before minutes are spent on the models
    check_recipe(plan.recipe)
    replace_folder(plan.out, MARKER, plan.recipe)
    console.print(
        f"[bold]Counterhint demo[/]: {plan.method or 'the method'} by {escape(plan.recipe.name)}, "
        f"teacher: {_TEACHERS[plan.teacher]}, seed {plan.seed}\n"
        f"run folder: {escape(str(plan.out))}\n",
        soft_wrap=True,
    )
    stages = Stages(console, total=4)
    environment = computing_environment(plan.threads)
    with (
        cursor_restored(console),
        private_folder() as sockets,
        Supervisor(stages.note, folder=REPOSITORY) as supervisor,
    ):

        def run(what: str, command: Sequence[str]) -> None:
            code = supervisor.run(command, environment)
            if code != EXIT_DONE:
                raise StageFailed(f"{what} ended with exit code {code}", code)

        with stages.stage("models", "made on this machine, as the recipe says"):
            larger = plan.teacher == "large"
            run(
                "making the models", models_command(plan.recipe, plan.models, larger_teacher=larger)
            )
        with stages.stage("services", "Redis, a gRPC teacher, the queue between them, pages"):
            plan.served.weights_root.mkdir()
            logs = plan.out / "logs"
            pages = Pages.on_free_port(plan.out.parent)
            for service in background_services([plan.served], sockets, logs, environment, pages):
                supervisor.start(service)
                console.print(
                    f"  {service.name:<9} log: {escape(str(service.log))}", soft_wrap=True
                )
            supervisor.wait_until_ready()
            page = f"{pages.url}/runs/{quote(plan.out.name)}"
            console.print(f"  watch it learn: [bold]{escape(page)}[/]", soft_wrap=True)
        with stages.stage("training", "solutions sampled, verified, scored under hints, learned"):
            address = scoring_address(sockets, plan.teacher)
            run("training", train_command(plan.training, address))
        trained = json.loads((plan.out / "summary.json").read_text(encoding="utf-8"))
        write_summary(plan.out, trained, stages.seconds)  # the report shows it
        with stages.stage("report", "curves, and solutions coloured by the contrast"):
            run("the report", counterhint("report", str(plan.out)))
    return write_summary(plan.out, trained, stages.seconds)


_TEACHERS = {
    "self": "the student's own earlier weights",
    "large": "a larger model of the same vocabulary",
}


def write_summary(
    out: Path, trained: Mapping[str, Any], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Writes the trainer's summary with the launcher's stages, after checking its keys.

    Args:
        out: the run folder.
        trained: the trainer's own summary; its stages are parts of the launcher's `training`.
        seconds: of the launcher's stages so far.

    Raises:
        StageFailed: the trainer's summary lacks a key.
    """
    path = out / "summary.json"
    parts = {f"training/{name}": value for name, value in trained["seconds_by_stage"].items()}
    summary = {
        **trained,
        "seconds_by_stage": {**seconds, **parts},
        "seconds_total": round(sum(seconds.values()), 2),
    }
    if missing := [key for key in SUMMARY_KEYS if key not in summary]:
        raise StageFailed(f"{path} lacks {', '.join(missing)}", EXIT_NEGATIVE)
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary
