"""The command line of the launcher: `counterhint demo`."""

import os
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.markup import escape

from counterhint.command_line import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_NEGATIVE,
    Command,
)
from deploy.local.demo import REPOSITORY, DemoPlan, StageFailed, run_demo
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
    method: Literal["rlcsd", "grpo"] = "rlcsd"
    """The contrast on top of the verifier's reward, or the reward alone."""
    steps: int | None = Field(default=None, ge=1)
    """Training steps; the recipe's when not given."""
    teacher: Literal["self", "large"] = "self"
    """Score with the student's own earlier weights, or with a larger model."""
    seed: int = 0
    """Seed of the training run."""
    recipe: Path | None = None
    """A recipe to use instead of the model's own. What it names is relative to the repository."""
    out: Path = Path("runs/demo")
    """Run folder; an earlier demo's is replaced, any other that holds files is refused."""

    def run(self) -> int:
        """Runs the demo and says where its results are."""
        console = Console()
        recipe = self.recipe or REPOSITORY / "recipes" / f"{self.model}.yaml"
        plan = DemoPlan(
            recipe=recipe.resolve(),
            out=self.out.resolve(),
            method=self.method,
            teacher=self.teacher,
            steps=self.steps,
            seed=self.seed,
            # Small models compute fastest on one thread.
            threads=1 if self.model == "tiny" else max(1, (os.cpu_count() or 1) // 2),
        )
        try:
            summary = run_demo(plan, console)
        except StageFailed as error:
            if error.code == EXIT_BAD_INPUT:  # the stage has said what is wrong
                return EXIT_BAD_INPUT
            print(f"counterhint demo: {error}; logs: {self.out / 'logs'}", file=sys.stderr)
            return EXIT_NEGATIVE
        except ServiceFailed as error:
            print(f"counterhint demo: {error}", file=sys.stderr)
            return EXIT_NEGATIVE
        except KeyboardInterrupt:
            console.print("\nInterrupted; every process of the demo has been ended.")
            return EXIT_INTERRUPTED
        console.print(_closing_text(summary, self.out), soft_wrap=True)
        return EXIT_DONE


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
