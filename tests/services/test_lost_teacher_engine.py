"""A job that kills or hangs the engine of a real teacher process, behind queue and dispatcher."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from counterhint.client import AsyncScoringClient
from counterhint.command_line import EXIT_ENGINE_DEAD
from counterhint.errors import JobDeadLettered
from services.dispatcher import Dispatcher
from services.queue.memory import MemoryQueue
from services.queue.records import QueueSettings
from services.server import serve_intake
from tests.services.scripted_teacher import make_job


async def keep_running(address: str, exit_codes: list[int]) -> None:
    """Starts the teacher again whenever it ends, as a supervisor does."""
    command = [sys.executable, "-m", "tests.teacher_server.broken_teacher", address]
    while True:
        child = await asyncio.create_subprocess_exec(
            *command, "hang_seconds=1", stdout=subprocess.DEVNULL
        )
        try:
            exit_codes.append(await child.wait())
        except asyncio.CancelledError:
            child.kill()
            raise


@pytest.mark.parametrize(("poison", "reason"), [("die", "ENGINE_DEAD"), ("hang", "ENGINE_HANGING")])
def test_it_is_put_aside_after_three_deaths_and_the_others_finish(
    tmp_path: Path, poison: str, reason: str
) -> None:
    address, intake = f"unix://{tmp_path}/t.sock", f"unix://{tmp_path}/i.sock"
    exit_codes: list[int] = []

    async def run() -> None:
        async with (
            MemoryQueue(QueueSettings()) as queue,
            serve_intake(queue, intake),
            AsyncScoringClient(intake, timeout=120.0) as client,
        ):
            supervisor = asyncio.create_task(keep_running(address, exit_codes))
            dispatcher = Dispatcher(queue, [address])
            dispatching = asyncio.create_task(dispatcher.run())
            await client.get_teacher()
            names = ("a", "b", poison, "c", "d", "e")
            calls = [client.score(make_job(name)) for name in names]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            dead = ended.pop(2)
            assert isinstance(dead, JobDeadLettered)
            assert dead.details["last_reason"] == reason
            assert [result.job_id for result in ended] == ["a", "b", "c", "d", "e"]
            assert [job.id for job in await queue.dead()] == [poison]
            dispatcher.stop()
            await dispatching
            assert exit_codes[:2] == [EXIT_ENGINE_DEAD] * 2
            while len(exit_codes) < 3:  # noqa: ASYNC110 - it ends a moment after its last answer
                await asyncio.sleep(0.02)
            assert exit_codes == [EXIT_ENGINE_DEAD] * 3
            supervisor.cancel()
            await asyncio.wait({supervisor})

    asyncio.run(run())
