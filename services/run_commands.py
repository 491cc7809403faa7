"""The commands for runs: `counterhint runs ls|show|pause|resume|cancel|policy`."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.box import SIMPLE_HEAD
from rich.table import Table

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE
from counterhint.errors import InputError, JobNotFound
from services.queue.base import JobQueue
from services.queue.records import RunPolicy, RunRecord
from services.queue_commands import QueueCommand
from services.tables import print_table

COLUMNS = (
    *("run_id", "queued", "claimed", "done", "failed", "cancelled", "expired", "dead"),
    *("weight", "paused", "tokens", "tokens_cached", "engine_seconds", "wait_mean"),
)
"""What the table of runs shows of `RunRecord.facts`."""


class RunsList(QueueCommand):
    """List the runs: jobs by state, weight, and what each took.

    tokens are those that the run was charged for, tokens_cached those that caches spared it,
    wait_mean the mean seconds between acceptance and last claim. Exit code 0.

    example:
      counterhint runs ls --redis redis://127.0.0.1:6379/0
    """

    def run(self) -> int:
        """Prints a row for each run."""
        rows = [record.facts() for record in self.ask(lambda queue: queue.runs())]
        if self.json_:
            print(json.dumps(rows, indent=2))
            return EXIT_DONE
        table = Table(*COLUMNS, box=SIMPLE_HEAD, padding=0)
        for row in rows:
            table.add_row(*(_cell(row[column]) for column in COLUMNS))
        print_table(table)
        return EXIT_DONE


class RunCommand(QueueCommand):
    """What every command for one run needs."""

    run_id: CliPositionalArg[str]
    """The run, as `counterhint runs ls` names it."""

    def change(self, what: Callable[[JobQueue], Awaitable[Any]]) -> tuple[Any, RunRecord]:
        """What the queue answered, and the run after it."""

        async def then_look(queue: JobQueue) -> tuple[Any, RunRecord]:
            return await what(queue), await queue.run(self.run_id)

        answer: tuple[Any, RunRecord] = self.ask(then_look)
        return answer

    def tell(self, record: RunRecord, what: str, *, known: bool = True) -> None:
        """Prints the run as JSON, or in one line what has happened to it.

        A run that was not known before may be a slip of the pen: the line says so.
        """
        if self.json_:
            print(json.dumps(record.facts(), indent=2))
            return
        stats = record.stats
        if not known:
            what += ", before its first job (counterhint runs ls lists the runs)"
        print(f"run {self.run_id}: {what}; {stats.queued} queued, {stats.claimed} claimed")


class RunsShow(RunCommand):
    """Show all that is known about one run: jobs, bytes, accounts, policy.

    Exit code 0; 2 when there is no such run.

    example:
      counterhint runs show demo-1f9c03ab --redis redis://127.0.0.1:6379/0
    """

    def run(self) -> int:
        """Prints a line for each figure."""
        facts = self.ask(lambda queue: queue.run(self.run_id)).facts()
        if self.json_:
            print(json.dumps(facts, indent=2))
            return EXIT_DONE
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {_cell(value)}")
        return EXIT_DONE


class RunsPause(RunCommand):
    """Hold a run's queued jobs back until it is resumed.

    What is claimed is finished, more can be queued, deadlines go on. A run that has sent no job yet
    can be paused as well. Exit code 0.

    example:
      counterhint runs pause demo-1f9c03ab --redis redis://127.0.0.1:6379/0
    """

    def run(self) -> int:
        """Pauses it and says how many of its jobs wait."""

        async def pause(queue: JobQueue) -> bool:
            known = await _is_known(queue, self.run_id)
            await queue.pause(self.run_id)
            return known

        known, record = self.change(pause)
        self.tell(record, "paused", known=known)
        return EXIT_DONE


class RunsResume(RunCommand):
    """End a run's pause; it has no claim to what it did not use meanwhile.

    Exit code 0; 1 when it was not paused; 2 when there is no such run.

    example:
      counterhint runs resume demo-1f9c03ab --redis redis://127.0.0.1:6379/0
    """

    def run(self) -> int:
        """Resumes it and says how many of its jobs wait."""
        resumed, record = self.change(lambda queue: queue.resume(self.run_id))
        self.tell(record, "resumed" if resumed else "was not paused")
        return EXIT_DONE if resumed else EXIT_NEGATIVE


class RunsCancel(RunCommand):
    """Cancel a run's unfinished jobs and drop its dead ones.

    A trainer that goes on sends more: stop it first. Exit code 0; 1 when there was no such job; 2
    when there is no such run.

    example:
      counterhint runs cancel demo-1f9c03ab --redis redis://127.0.0.1:6379/0
    """

    def run(self) -> int:
        """Cancels them and prints how many there were."""

        async def cancel(queue: JobQueue) -> int:
            await queue.run(self.run_id)  # an unknown run is an error
            return await queue.purge(self.run_id)

        cancelled = self.ask(cancel)
        if self.json_:
            print(json.dumps({"run": self.run_id, "cancelled": cancelled}))
        else:
            print(f"run {self.run_id}: {cancelled} jobs cancelled or dropped")
        return EXIT_DONE if cancelled else EXIT_NEGATIVE


class RunsPolicy(RunCommand):
    """Set what a run may take of the queue, over what its token says, until --reset.

    What is not given stays as it is. A weight counts from the next claim, the others from the next
    job. A run that has sent no job yet can be given a policy as well. Exit code 0.

    example:
      counterhint runs policy demo-1f9c03ab --weight 2 --max-jobs 500 \\
        --redis redis://127.0.0.1:6379/0
      counterhint runs policy demo-1f9c03ab --reset --redis redis://127.0.0.1:6379/0
    """

    weight: float | None = None
    """Its share of the tokens, compared with the weights of the other runs; 0.001 to 1000."""
    max_priority: int | None = None
    """The highest priority that its jobs may have, 0 to 3."""
    max_jobs: int | None = Field(None, ge=0)
    """Most unfinished jobs of the run, where that is less than the queue's --max-run-jobs."""
    max_bytes: int | None = Field(None, ge=0)
    """Most payload bytes of its unfinished jobs, where that is less than --max-run-bytes."""
    reset: bool = False
    """Put back what the run's token says, as it came with the run's last job."""

    def run(self) -> int:
        """Sets it and prints what holds now."""
        given = {
            "weight": self.weight,
            "max_priority": self.max_priority,
            "max_jobs": self.max_jobs,
            "max_bytes": self.max_bytes,
        }
        changes: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        if bool(changes) == self.reset:
            raise InputError(
                f"runs policy {self.run_id}: give what to set (--weight, --max-priority, "
                "--max-jobs, --max-bytes), or --reset alone; counterhint runs show prints it"
            )

        async def set_policy(queue: JobQueue) -> bool:
            known = self.reset or await _is_known(queue, self.run_id)
            # To reset an unknown run is an error.
            policy = (await queue.run(self.run_id)).policy if known else RunPolicy()
            changed = None if self.reset else replace(policy, **changes)
            await queue.set_policy(self.run_id, changed)
            return known

        known, record = self.change(set_policy)
        facts = asdict(record.policy)
        what = ", ".join(f"{name} {_cell(value)}" for name, value in facts.items())
        self.tell(record, what, known=known)
        return EXIT_DONE


async def _is_known(queue: JobQueue, run_id: str) -> bool:
    try:
        await queue.run(run_id)
    except JobNotFound:
        return False
    return True


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
