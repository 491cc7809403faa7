"""The launcher's command lines: `counterhint demo`, `counterhint compare`."""

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.markup import escape

from counterhint.command_line import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_NEGATIVE,
    Command,
)
from deploy.local.commands import REPOSITORY
from deploy.local.compare import run_compare
from deploy.local.compare_plan import ComparePlan, plan_comparison
from deploy.local.demo import DemoPlan, run_demo
from deploy.local.methods import check_method, named_methods, teacher_for
from deploy.local.stages import StageFailed
from deploy.local.supervisor import ServiceFailed


class Demo(Command):
    """Run contrastive on-policy distillation from end to end on this machine.

    Makes small models, starts Redis, a gRPC teacher and the queue services, trains a student on a
    verifiable task and writes a report. Whatever it started ends with it, also on Ctrl-C.

    Example: counterhint demo --method rlcsd --steps 80 --out runs/demo
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_DEMO_")

    model: Literal["tiny", "smollm2"] = "tiny"
    """Models made from scratch in a minute, or SmolLM2-135M-Instruct."""
    method: str | None = None
    """grpo (the verifier's reward alone), rlcsd (with the contrast), opsd, sdpo, srpo, rlsd,
    opsd_ectr, rlsd_ectr or opd; the recipe's, rlcsd, when not given."""
    steps: int | None = Field(default=None, ge=1)
    """Training steps; the recipe's when not given."""
    teacher: Literal["self", "large"] | None = None
    """Score with the student's own earlier weights, or with a larger model; when not given, opd,
    which needs it, gets the larger one and all others the student's own."""
    seed: int = 0
    """Seed of the training run."""
    recipe: Path | None = None
    """A recipe to use instead of the model's own. What it names is relative to the repository."""
    set_: list[str] = Field([], alias="set")
    """key=value: replaces a value of the recipe; repeatable."""
    out: Path = Path("runs/demo")
    """Run folder; an earlier demo's is replaced, any other that holds files is refused."""

    def run(self) -> int:
        """Runs the demo and says where its results are."""
        console = Console()
        recipe = self.recipe or REPOSITORY / "recipes" / f"{self.model}.yaml"
        if self.method is not None:
            check_method(self.method)
        plan = DemoPlan(
            recipe=recipe.resolve(),
            out=self.out.resolve(),
            method=self.method,
            teacher=teacher_for(self.method, self.teacher),
            steps=self.steps,
            seed=self.seed,
            settings=self.set_,
            # Small models compute fastest on one thread.
            threads=1 if self.model == "tiny" else max(1, (os.cpu_count() or 1) // 2),
        )
        try:
            summary = run_demo(plan, console)
        except (StageFailed, ServiceFailed) as error:
            return _failed("demo", error, self.out)
        except KeyboardInterrupt:
            console.print("\nInterrupted; every process of the demo has been ended.")
            return EXIT_INTERRUPTED
        console.print(_closing_text(summary, self.out), soft_wrap=True)
        return EXIT_DONE


class Compare(Command):
    """Train by several methods and seeds, and put the results side by side.

    Makes the recipe's models once and starts Redis, the teachers and the queue services once for
    all runs. A run that has ended is not repeated when the command is given again; one that was cut
    short goes on from its checkpoint. Writes comparison.html (table and plots in one file),
    comparison.md, comparison.json, the plots as SVG, and report.html (charts and rollouts of all
    runs) into --out. Exit code 1 when a run failed; the others are compared all the same.

    All runs have metrics.signals=true, and go on to the last step even when they collapse
    (stop_after_unmixed_steps); --set has the last word.

    A method's file is laid over the recipe: recipes/tiny/methods/opsd.yaml for recipes/tiny.yaml
    where there is one, else recipes/methods/opsd.yaml with the paper's values.

    example:
      counterhint compare recipes/tiny.yaml --methods grpo,rlcsd,opsd --seeds 3
      counterhint compare recipes/tiny.yaml --methods grpo,opd --steps 40 --out runs/lr \\
        --set evaluation.problems=256 --set opd:optimizer.lr=5e-4
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_COMPARE_")

    recipe: CliPositionalArg[Path]
    """The recipe, with a section `models`. What it names is relative to the repository."""
    methods: list[str] = Field(min_length=1)
    """Methods, separated by commas; `all` for every one. Differences are to the first."""
    seeds: int = Field(3, ge=1)
    """Runs of each method, with the seeds FIRST_SEED, FIRST_SEED + 1 and so on."""
    first_seed: int = Field(0, ge=0)
    """The first seed."""
    steps: int | None = Field(None, ge=1)
    """Training steps; the recipe's when not given."""
    teacher: Literal["self", "large"] | None = None
    """As for `counterhint demo`."""
    set_: list[str] = Field([], alias="set")
    """key=value for all methods, or METHOD:key=value for one: replaces a value of the recipe;
    repeatable."""
    parallel: int = Field(1, ge=1)
    """Runs at the same time."""
    out: Path = Path("runs/compare")
    """Folder for models, runs and results; an earlier comparison's is gone on with."""
    json_: bool = Field(False, alias="json")
    """Print comparison.json; what happens goes to standard error."""

    def run(self) -> int:
        """Runs what is missing, compares, and says where the results are."""
        console = Console(stderr=self.json_)
        plan = plan_comparison(
            recipe=self.recipe.resolve(),
            out=self.out.resolve(),
            methods=named_methods(self.methods),
            seeds=range(self.first_seed, self.first_seed + self.seeds),
            steps=self.steps,
            teacher=self.teacher,
            settings=self.set_,
            parallel=self.parallel,
        )
        try:
            failed = run_compare(plan, console)
        except (StageFailed, ServiceFailed) as error:
            return _failed("compare", error, self.out)
        except KeyboardInterrupt:
            console.print(
                "\nInterrupted; every process has been ended. The same command goes on from here."
            )
            return EXIT_INTERRUPTED
        if self.json_:
            print((plan.out / "comparison.json").read_text(encoding="utf-8"), end="")
        else:
            self._show(plan, console)
        for name in failed:
            log = self.out / "logs" / f"{name}.log"
            print(f"counterhint compare: {name} failed; its log: {log}", file=sys.stderr)
        return EXIT_NEGATIVE if failed else EXIT_DONE

    def _show(self, plan: ComparePlan, console: Console) -> None:
        comparison = json.loads((plan.out / "comparison.json").read_text(encoding="utf-8"))
        for entry in comparison["methods"]:
            after = entry["figures"]["accuracy_after"]
            error = "" if after["stderr"] is None else f" ± {after['stderr']:.3f}"
            console.print(f"  {entry['name']:<12} {after['mean']:.3f}{error}  (n = {after['n']})")
        console.print(
            f"Held-out accuracy after training, ± standard error over seeds. All figures and "
            f"plots: {escape(str(self.out))}/comparison.html",
            soft_wrap=True,
        )


def _failed(command: str, error: StageFailed | ServiceFailed, out: Path) -> int:
    """Says what failed; the exit code."""
    if isinstance(error, ServiceFailed):
        print(f"counterhint {command}: {error}", file=sys.stderr)
        return EXIT_NEGATIVE
    if error.code == EXIT_BAD_INPUT:  # the stage has said what is wrong
        return EXIT_BAD_INPUT
    print(f"counterhint {command}: {error}; logs: {out / 'logs'}", file=sys.stderr)
    return EXIT_NEGATIVE


def _closing_text(summary: dict[str, Any], folder: Path) -> str:
    out = escape(str(folder))
    before, after = summary["heldout_accuracy_before"], summary["heldout_accuracy_after"]
    return "\n".join(
        [
            f"[bold]Held-out accuracy {before:.1%} → {after:.1%}[/] "
            f"({summary['heldout_samples']} samples, {summary['steps']} steps of "
            f"{summary['method']}, {summary['seconds_total']:.0f} s in all)",
            f"Report:   {out}/report.html  (open it in a browser)",
            f"Figures:  {out}/summary.json, {out}/metrics.jsonl; "
            f"tensorboard --logdir {out}/tensorboard",
            "Next:     make demo METHOD=grpo OUT=runs/grpo   (the same without hints)",
            "          .venv/bin/counterhint --help           (every part by itself)",
        ]
    )
