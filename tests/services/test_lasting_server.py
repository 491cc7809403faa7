"""A call that breaks grpc.aio's own loop: the server goes on, and so do the calls under way."""

import asyncio
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest

from counterhint.client import AsyncScoringClient
from services.queue.memory import MemoryQueue
from services.server import serve_intake
from tests.fuzz import http2_frames
from tests.fuzz.http2_frames import END_HEADERS, HEADERS, PREFACE, SETTINGS, frame, headers
from tests.services.scripted_teacher import ScriptedTeacher, make_job
from tests.services.test_intake import answer, next_claim

NO_TEXT = (
    PREFACE
    + frame(SETTINGS, 0, 0, b"")
    + frame(HEADERS, END_HEADERS, 1, headers("/a/b").replace(b"/a/b", b"/a/\xff"))
)


def test_a_method_that_is_no_text_takes_no_server_away(tmp_path: Path) -> None:
    child = get_context("spawn").Process(target=break_and_go_on, args=(tmp_path,))
    child.start()
    child.join(120.0)
    if child.exitcode == -signal.SIGSEGV:
        pytest.xfail("when its loop breaks, grpc.aio frees calls that its core still waits for")
    assert child.exitcode == 0


def break_and_go_on(tmp_path: Path) -> None:
    async def run() -> None:
        async with MemoryQueue() as queue:
            await queue.publish_teacher(ScriptedTeacher().info, seconds=600.0)
            socket = tmp_path / "i.sock"
            async with (
                serve_intake(queue, f"unix://{socket}") as address,
                AsyncScoringClient(address, timeout=30.0) as before,
            ):
                call = asyncio.create_task(before.score(make_job("under way")))
                claim = await next_claim(queue)
                for _ in range(2):
                    await http2_frames.send(str(socket), NO_TEXT, 0.1)
                    async with AsyncScoringClient(address, timeout=30.0) as after:
                        assert await after.get_teacher() == ScriptedTeacher().info
                await answer(queue, claim)
                assert (await call).job_id == "under way"

    asyncio.run(run())
