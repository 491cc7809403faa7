"""A trainer of the soak as a child process, and what it asks for."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from counterhint.errors import JobNotFound
from services.queue.base import JobQueue
from tests.load.trainer import Orders, Sent

REPOSITORY = Path(__file__).parents[2]
LONGEST_LINE = 1 << 24
"""Bytes of a line that it prints."""


class TrainerProcess:
    """A trainer that is under way.

    Args:
        name: how it is called, for errors.
        process: runs `tests.load.trainer`.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._name = name
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout

    async def connected(self) -> None:
        """Returns when it is ready to send."""
        await self._next()

    async def send_all(self, queue: JobQueue, progress: Callable[[int], None]) -> Sent:
        """Has it send everything, and does what it asks for meanwhile.

        Args:
            queue: where jobs are cancelled for it.
            progress: told how many of its jobs have ended.
        """
        self._stdin.write(b"go\n")
        async with asyncio.TaskGroup() as cancels:
            while True:
                match await self._next():
                    case {"cancel": job_id}:
                        cancels.create_task(_cancel(queue, job_id))
                    case {"step": jobs}:
                        progress(jobs)
                    case {"sent": sent}:
                        return Sent(**{**sent, "ends": Counter(sent["ends"])})

    async def end(self) -> None:
        """Has it close its connections, and waits for its end.

        Raises:
            RuntimeError: that was not in order.
        """
        self._stdin.close()
        if code := await self._process.wait():
            raise RuntimeError(f"{self._name} ended with {code}; its traceback is above")

    async def kill(self) -> None:
        """Ends it if it is still there."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _next(self) -> dict[str, Any]:
        line = await self._stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} ended too early; its traceback is above")
        said: dict[str, Any] = json.loads(line)
        return said


@asynccontextmanager
async def started_trainers(orders: list[Orders]) -> AsyncIterator[dict[str, TrainerProcess]]:
    """Trainers by name, all of them connected; they end with the block."""
    trainers = {}
    try:
        for order in orders:
            name = f"trainer {order.run}"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.load.trainer", json.dumps(asdict(order))),
                stdin=PIPE,
                stdout=PIPE,
                limit=LONGEST_LINE,
                cwd=REPOSITORY,
            )
            trainers[name] = TrainerProcess(name, process)
        await asyncio.gather(*(trainer.connected() for trainer in trainers.values()))
        yield trainers
        await asyncio.gather(*(trainer.end() for trainer in trainers.values()))
    finally:
        for trainer in trainers.values():
            await trainer.kill()


async def _cancel(queue: JobQueue, job_id: str) -> None:
    """Cancels a job as soon as the queue knows it."""
    while True:
        try:
            await queue.cancel(job_id)
        except JobNotFound:
            await asyncio.sleep(0.01)
        else:
            return
