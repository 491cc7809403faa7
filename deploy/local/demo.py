"""The whole system in small: every part as a process of its own on this machine.

models → Redis, teacher and queue services → training → report. The parts are called by their
command lines only, as an operator would call them on several machines.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console
from rich.markup import escape

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE
from counterhint.errors import InputError
from deploy.local.redis import LocalRedis, find_redis_server
from deploy.local.supervisor import Service, Supervisor

REPOSITORY = Path(__file__).parents[2]
"""Where the parts run: the files that a recipe names are relative to it."""
MARKER = ".counterhint-demo"
"""A file that the launcher alone writes: a run folder without it is never replaced."""
_LONGEST_SOCKET_PATH = 100
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
    method: str
    """The loss: `rlcsd` or `grpo`."""
    teacher: Literal["self", "large"]
    """The student's own earlier weights, or the larger model with fixed weights."""
    steps: int | None
    """Training steps; the recipe's when None."""
    seed: int
    """Seed of the training run."""
    threads: int
    """CPU threads of the trainer, and of the teacher: both compute at the same time."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the processes that compute; the user's own number of threads is kept."""
        return {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(self.threads)),
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }


class StageFailed(Exception):
    """A stage ended without its result."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
        """The exit code that the stage ended with."""


def run_demo(plan: DemoPlan, console: Console) -> dict[str, Any]:
    """Runs the demo and returns its summary, which is also in `summary.json`.

    Raises:
        InputError: something in the plan, or on this machine, cannot be used.
        StageFailed: a part ended with an error.
        ServiceFailed: a part in the background cannot be kept running.
    """
    find_redis_server()  # a missing one shows before minutes are spent on the models
    prepare_run_folder(plan)
    console.print(
        f"[bold]Counterhint demo[/]: {plan.method} by {escape(plan.recipe.name)}, "
        f"teacher: {_TEACHERS[plan.teacher]}, seed {plan.seed}\n"
        f"run folder: {escape(str(plan.out))}\n",
        soft_wrap=True,
    )
    stages = _Stages(console, total=4)
    with (
        _restored(console),
        _private_folder() as sockets,
        Supervisor(stages.note, folder=REPOSITORY) as supervisor,
    ):

        def run(what: str, command: Sequence[str]) -> None:
            code = supervisor.run(command, plan.environment)
            if code != EXIT_DONE:
                raise StageFailed(f"{what} ended with exit code {code}", code)

        with stages.stage("models", "made on this machine, as the recipe says"):
            run("making the models", models_command(plan))
        with stages.stage("services", "Redis, a gRPC teacher and the queue between them"):
            for service in background_services(plan, sockets):
                supervisor.start(service)
                console.print(
                    f"  {service.name:<9} log: {escape(str(service.log))}", soft_wrap=True
                )
            supervisor.wait_until_ready()
        with stages.stage("training", "solutions sampled, verified, scored under hints, learned"):
            run("training", train_command(plan, sockets))
        trained = json.loads((plan.out / "summary.json").read_text(encoding="utf-8"))
        write_summary(plan.out, trained, stages.seconds)  # the report shows it
        with stages.stage("report", "curves, and solutions coloured by the contrast"):
            run("the report", _counterhint("report", str(plan.out)))
    return write_summary(plan.out, trained, stages.seconds)


_TEACHERS = {
    "self": "the student's own earlier weights",
    "large": "a larger model of the same vocabulary",
}


def prepare_run_folder(plan: DemoPlan) -> None:
    """Makes a run folder that holds nothing but `MARKER`; an earlier demo's folder is replaced.

    Raises:
        InputError: no such recipe, or the folder is not one that the launcher may replace.
    """
    if not plan.recipe.is_file():
        raise InputError(f"there is no recipe {plan.recipe}: run the demo from a clone of the code")
    out = plan.out
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: name a folder")
    for what, path in (
        ("the recipe", plan.recipe),
        ("the working directory", Path.cwd()),
        ("your home", Path.home()),
    ):
        if path.resolve().is_relative_to(out.resolve()):
            raise InputError(
                f"--out {out} would be replaced, but {what} {path} lies in it: name another folder"
            )
    if out.is_dir() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise InputError(
                f"--out {out} holds files, but no {MARKER}, so no demo made it and it is not "
                "replaced: name another folder"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text(
        "`counterhint demo` made this folder and replaces it when it is given it again.\n",
        encoding="utf-8",
    )


def models_command(plan: DemoPlan) -> list[str]:
    """The command that makes the models of the plan in its run folder."""
    command = _counterhint("models", "make", str(plan.recipe), "--out", str(plan.out / "models"))
    return command if plan.teacher == "large" else [*command, "--only", "student"]


def train_command(plan: DemoPlan, sockets: Path) -> list[str]:
    """The command that trains the student by the plan."""
    overrides = {
        "run_dir": plan.out,
        "student.model": plan.out / "models" / "student",
        "scoring.address": _address(sockets, "intake"),
        "method.kind": plan.method,
        "seed": plan.seed,
    }
    if plan.steps is not None:
        overrides["steps"] = plan.steps
    if plan.teacher == "large":
        overrides["teacher_refresh.kind"] = "fixed"
    return _counterhint(
        "train", str(plan.recipe), *(f"{key}={value}" for key, value in overrides.items())
    )


def background_services(plan: DemoPlan, sockets: Path) -> Iterator[Service]:
    """Redis, the teacher and the queue services, in the order in which they start."""
    redis = LocalRedis(sockets)
    logs = plan.out / "logs"
    yield Service(
        name="redis",
        command=(*redis.command, "--logfile", ""),  # to its output, as the others
        is_ready=lambda: _answers(redis),
        log=logs / "redis.log",
    )
    model = plan.out / "models" / ("student" if plan.teacher == "self" else "teacher")
    teacher = _address(sockets, "teacher")
    weights = plan.out / "weights"
    weights.mkdir()
    yield Service(
        name="teacher",
        command=tuple(
            _counterhint(
                *("teacher", "serve", "--model", str(model), "--listen", teacher),
                *("--weights-root", str(weights.resolve())),
            )
        ),
        is_ready=lambda: is_serving(teacher),
        log=logs / "teacher.log",
        environment=plan.environment,
    )
    intake = _address(sockets, "intake")
    yield Service(
        name="services",
        command=tuple(
            _counterhint(
                *("services", "run", "--listen", intake),
                *("--teachers", teacher, "--redis", redis.url),
            )
        ),
        is_ready=lambda: is_serving(intake),
        log=logs / "services.log",
        environment=plan.environment,
    )


def is_serving(address: str) -> bool:
    """Whether the gRPC server at an address says that it is ready (grpc.health.v1)."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except grpc.RpcError:  # not listening yet
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


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


class _Stages:
    """Announces the stages and times them."""

    def __init__(self, console: Console, total: int) -> None:
        self.seconds: dict[str, float] = {}
        self._console = console
        self._total = total

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        self._console.rule(
            f"[bold]{len(self.seconds) + 1}/{self._total} {name}[/]: {what}", align="left"
        )
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)
        self._console.print(f"[green]✓[/] {name} ({self.seconds[name]:.1f} s)\n")

    def note(self, line: str) -> None:
        self._console.print(f"[yellow]![/] {escape(line)}", soft_wrap=True)


@contextmanager
def _restored(console: Console) -> Iterator[None]:
    """Shows the cursor again, which a part that is ended while it draws leaves hidden."""
    try:
        yield
    finally:
        console.show_cursor()


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, with a path short enough for unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="counterhint-"))
    try:
        if len(bytes(folder / "teacher.sock")) > _LONGEST_SOCKET_PATH:
            raise InputError(
                f"{folder} is too long a path for unix sockets: set TMPDIR to a shorter one"
            )
        yield folder
    finally:
        shutil.rmtree(folder)


def _address(sockets: Path, name: str) -> str:
    return f"unix://{sockets / name}.sock"


def _answers(redis: LocalRedis) -> bool:
    try:
        redis.wait_until_ready(timeout=0.0)
    except InputError:
        return False
    return True


def _counterhint(*words: str) -> list[str]:
    return [sys.executable, "-m", "deploy.cli", *words]
