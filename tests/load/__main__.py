"""`python -m tests.load`: the soak from the command line."""

import json
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import NoReturn

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE, Command, run_command
from tests.load.samples import write_samples
from tests.load.soak import Plan, soak

WIDTH = 120
"""Columns of the table, also where no terminal says how many there are."""


class Load(Command):
    """Hours of traffic through Redis, the services and a teacher, 24 times as fast.

    Memory and file descriptors of every process must stay flat, no job may be lost, and scores
    must be those of plain forward passes; docs/reliability.md says what exactly. Exit code 0; 1
    when a bound is broken.

    example:
      python -m tests.load --runs 8 --hours 1 --samples samples.csv
    """

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_LOAD_")

    runs: int = Field(8, ge=1)
    """Trainers, each with a run of its own."""
    hours: float = Field(1.0, gt=0)
    """Hours of traffic of each run: a step every 30 s, 8 groups a step."""
    step_seconds: float = Field(1.25, ge=0)
    """Seconds between the beginnings of two steps, instead of 30: an hour in 2.5 minutes."""
    sample_seconds: float = Field(1.0, gt=0)
    """Seconds between two samples of all processes."""
    samples: Path | None = None
    """CSV file for the samples."""
    json_: bool = Field(False, alias="json")
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Soaks and prints."""
        signal.signal(signal.SIGTERM, _end_in_order)
        plan = Plan(self.runs, self.hours, self.step_seconds, self.sample_seconds)
        errors = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), "jobs", TimeRemainingColumn())
        with (
            TemporaryDirectory(prefix="load") as folder,
            Progress(*columns, console=errors) as progress,
        ):
            bar = progress.add_task("", total=plan.runs * plan.jobs)
            report = soak(plan, Path(folder), lambda done: progress.update(bar, completed=done))
        if self.samples is not None:
            write_samples(self.samples, report.samples, report.redis)
        if self.json_:
            print(json.dumps(report.as_json(), indent=2))
        else:
            report.show(Console(width=WIDTH))
        return EXIT_NEGATIVE if report.broken() else EXIT_DONE


def _end_in_order(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the soak so that its child processes end as well."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(run_command(Load, "python -m tests.load", sys.argv[1:]))
