"""The commands for jobs of the queue: `counterhint queue show`, `dead` and `retry`."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table

from counterhint.command_line import EXIT_DONE, EXIT_NEGATIVE, Command
from counterhint.errors import InputError, JobNotFound
from services.queue.base import JobQueue
from services.queue.records import JobRecord
from services.redis_url import open_redis
from services.tables import print_table

JOB_COLUMNS = tuple(field.name for field in fields(JobRecord))


class QueueCommand(Command):
    """What every look into the queue needs."""

    model_config = SettingsConfigDict(env_prefix="COUNTERHINT_SERVICES_")

    redis: str
    """The queue's Redis: redis://host:port/0, rediss://… or unix:///path."""
    json_: bool = Field(False, alias="json")
    """Print JSON instead of a table."""

    def ask(self, question: Callable[[JobQueue], Awaitable[Any]]) -> Any:
        """The answer of the queue.

        Raises:
            InputError: Redis cannot be reached, or no job or run has the id.
        """

        async def answer() -> Any:
            async with await open_redis(self.redis, None) as queue:
                return await question(queue)

        try:
            return asyncio.run(answer())
        except JobNotFound as error:
            raise InputError(f"{error}; counterhint runs ls lists the runs") from error

    def show(self, columns: Sequence[str], rows: Sequence[Any]) -> None:
        """Prints rows of one kind; a table has the given columns, JSON has all."""
        if self.json_:
            print(json.dumps([asdict(row) for row in rows], indent=2))
            return
        table = Table(*columns, box=SIMPLE_HEAD, padding=0)
        for row in rows:
            table.add_row(*(str(getattr(row, column)) for column in columns))
        print_table(table)


class QueueShow(QueueCommand):
    """Show one job.

    example:
      counterhint queue show demo-1f9c03ab/step-12/group-3/9f3a1c77e05b \\
        --redis redis://127.0.0.1:6379/0
    """

    job: CliPositionalArg[str]
    """The job's id."""

    def run(self) -> int:
        """Prints the job."""
        self.show(JOB_COLUMNS, [self.ask(lambda queue: queue.job(self.job))])
        return EXIT_DONE


class QueueDead(QueueCommand):
    """List the jobs that failed on every try and were put aside.

    example:
      counterhint queue dead --redis redis://127.0.0.1:6379/0 --json
    """

    def run(self) -> int:
        """Prints a row for each dead job."""
        self.show(JOB_COLUMNS, self.ask(lambda queue: queue.dead()))
        return EXIT_DONE


class QueueRetry(QueueCommand):
    """Put a dead job back into the queue.

    example:
      counterhint queue retry demo-1f9c03ab/step-12/group-3/9f3a1c77e05b \\
        --redis redis://127.0.0.1:6379/0
    """

    job: CliPositionalArg[str]
    """The job's id."""

    def run(self) -> int:
        """Puts it back; exit code 1 when it is not dead."""
        retried = self.ask(lambda queue: queue.retry(self.job))
        if self.json_:
            print(json.dumps({"job": self.job, "retried": retried}))
        else:
            print(f"job {self.job}: {'queued again' if retried else 'not dead, left as it is'}")
        return EXIT_DONE if retried else EXIT_NEGATIVE
