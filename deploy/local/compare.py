"""Several methods and seeds by one recipe, side by side.

models → Redis, teachers and queue services, shared by all runs → one training run after the other,
or some at a time → the comparison of their folders. A run whose folder says that it ended with the
very same settings is not repeated.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE
from deploy.local.background import background_services, private_folder, scoring_address
from deploy.local.commands import (
    REPOSITORY,
    computing_environment,
    counterhint,
    models_command,
    train_command,
)
from deploy.local.compare_plan import ComparePlan, Run
from deploy.local.folders import claim_folder
from deploy.local.provenance import file_digests, read_settings, write_settings
from deploy.local.redis import find_redis_server
from deploy.local.stages import StageFailed, Stages, cursor_restored
from deploy.local.supervisor import Job, Supervisor

MARKER = ".counterhint-compare"
"""A file that the launcher alone writes: a folder of other files without it is never touched."""


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
    settings = {"files": file_digests([plan.recipe]), "larger_teacher": larger}
    with stages.stage("models", "made on this machine, as the recipe says"):
        made = read_settings(plan.models)
        if made.get("files") == settings["files"] and made["larger_teacher"] >= larger:
            console.print("  as they are: the recipe has not changed")
            return
        command = models_command(plan.recipe, plan.models, larger_teacher=larger)
        code = supervisor.run(command, computing_environment(threads=1), console.file)
        if code != EXIT_DONE:
            raise StageFailed(f"making the models ended with exit code {code}", code)
        write_settings(plan.models, settings)


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
