"""The console script `counterhint`: finds the command that the first words name, and runs it.

A part's command line is imported only when it is called, so that each part works with nothing but
its own extra installed.
"""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives."""

    target: str
    """`module:Class` of its `Command`."""
    extra: str
    """The extra that brings what it needs."""
    summary: str
    """One line for the overview."""


COMMANDS: dict[str, Entry] = {
    "demo": Entry("deploy.local.cli:Demo", "demo", "the whole system in small, on this machine"),
    "compare": Entry(
        "deploy.local.cli:Compare", "demo", "train by several methods and seeds, side by side"
    ),
    "teacher serve": Entry("teacher_server.cli:Serve", "teacher", "serve a teacher over gRPC"),
    "services run": Entry(
        "services.cli:Run", "services", "run the services: intake, dispatcher, gateway"
    ),
    "models make": Entry(
        "student_trainer.cli:MakeModels", "student", "make the models that a recipe starts from"
    ),
    "train": Entry("student_trainer.cli:Train", "student", "train a student by a recipe"),
    "sampler serve": Entry(
        "student_trainer.cli:ServeSampler", "student-vllm", "serve vLLM that samples rollouts"
    ),
    "eval": Entry(
        "student_trainer.cli:Eval", "student", "evaluate a model or checkpoint by a recipe"
    ),
    "score": Entry(
        "student_trainer.cli:Score", "student", "score the rollouts of a file, without training"
    ),
    "report": Entry("student_trainer.cli:Report", "student", "show runs in one HTML page"),
    "verify-losses": Entry(
        "student_trainer.cli:VerifyLosses",
        "student",
        "compare losses and gradients with reference numbers",
    ),
    "bench scoring": Entry(
        "teacher_server.cli:BenchScoring", "teacher", "time group scoring against the naive way"
    ),
    "bench wire": Entry(
        "teacher_server.cli:BenchWire", "teacher", "bytes and time of replies against JSON"
    ),
    "bench loss": Entry(
        "student_trainer.cli:BenchLoss", "student", "memory and time of the loss's log probs"
    ),
    "bench queue": Entry(
        "services.cli:BenchQueue", "services", "jobs a second through the queue, time of a claim"
    ),
    "doctor": Entry(
        "services.doctor.command:Doctor", "services", "look at machine, Redis and teachers"
    ),
    "runs ls": Entry("services.run_commands:RunsList", "services", "jobs and accounts by run"),
    "runs show": Entry("services.run_commands:RunsShow", "services", "all about one run"),
    "runs pause": Entry("services.run_commands:RunsPause", "services", "hold a run's jobs back"),
    "runs resume": Entry("services.run_commands:RunsResume", "services", "end a run's pause"),
    "runs cancel": Entry("services.run_commands:RunsCancel", "services", "end a run's jobs"),
    "runs policy": Entry(
        "services.run_commands:RunsPolicy", "services", "a run's weight, priority and bounds"
    ),
    "queue show": Entry("services.queue_commands:QueueShow", "services", "one job's state"),
    "queue dead": Entry(
        "services.queue_commands:QueueDead", "services", "jobs that were put aside"
    ),
    "queue retry": Entry("services.queue_commands:QueueRetry", "services", "put a dead job back"),
    "tokens new": Entry("services.token_commands:TokensNew", "services", "make a run's token"),
    "tokens revoke": Entry(
        "services.token_commands:TokensRevoke", "services", "take a run's tokens back"
    ),
    "tokens ls": Entry("services.token_commands:TokensList", "services", "list tokens by id"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in COMMANDS:
            return _run(name, words[length:])
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    known = [name for name in COMMANDS if name.split()[0] == words[0]]
    if known and words[1:] in (["-h"], ["--help"]):
        print(_overview(known))
        return 0
    if known:
        given = " ".join(word for word in words[:2] if not word.startswith("-"))
        message = f"no command {given!r}; these begin so:\n{_listing(known)}"
    else:
        message = f"no command {words[0]!r}; counterhint --help lists them"
    print(f"counterhint: {message}", file=sys.stderr)
    return 2


def _run(name: str, arguments: Sequence[str]) -> int:
    entry = COMMANDS[name]
    module, _, attribute = entry.target.partition(":")
    try:
        command_line = importlib.import_module("counterhint.command_line")
        command = getattr(importlib.import_module(module), attribute)
        # Parts import their heavy libraries only when a command runs.
        exit_code: int = command_line.run_command(command, f"counterhint {name}", arguments)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in _OURS:
            raise
        print(
            f"counterhint {name}: {library} is not installed; "
            f"pip install 'counterhint[{entry.extra}]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:  # while the command was still being imported
        return 130
    return exit_code


def _overview(names: Sequence[str] = tuple(COMMANDS)) -> str:
    return "\n".join(
        [
            "usage: counterhint COMMAND [--help] …",
            "",
            "Contrastive on-policy distillation: score solutions under correct and wrong hints.",
            "",
            _listing(names),
            "",
            "example: counterhint demo --out runs/demo",
        ]
    )


def _listing(names: Sequence[str]) -> str:
    width = max(map(len, names))
    return "\n".join(f"  {name:<{width}}  {COMMANDS[name].summary}" for name in names)


_OURS = frozenset({"counterhint", "deploy", "services", "student_trainer", "teacher_server"})


if __name__ == "__main__":
    sys.exit(main())
