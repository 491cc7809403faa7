"""A stream whose replies nobody takes: what it may hold is bounded, and others are served."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from counterhint.channel import open_channel
from counterhint.client import ScoringClient
from counterhint.jobs import ScoringJob, pairs_array
from counterhint.messages import job_to_message
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from tests.faults.site import PATIENCE, Child, Site, Teacher, is_ready
from tests.processes import wait_until
from tests.services.scripted_teacher import make_job

JOBS, PAIRS, TOKENS = 120, 1000, 250
MOST_BYTES = 64 * 1024 * 1024
"""What a server may grow by: its replies alone would be 120 MB."""


@pytest.fixture(scope="module")
def remembering(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teacher]:
    """A teacher with its content cache, which does not cut off a reader for being slow."""
    started = Teacher(model, tmp_path_factory.mktemp("teacher"), "--send-seconds", "3600")
    yield started
    started.kill()


def large(name: str, fingerprint: str) -> ScoringJob:
    """A job of one pair, asked for 1000 times: a reply of 1 MB for next to no work."""
    job = make_job(name, tokens=TOKENS, run_id="slow", fingerprint=fingerprint)
    return replace(job, pairs=pairs_array([(0, 0)] * PAIRS))


@contextmanager
def unread_stream(address: str, fingerprint: str) -> Iterator[list[str]]:
    """A stream with all jobs, of which nothing is read before the block ends.

    Gives the list of what was answered with scores, which is filled then.
    """
    loop, begun, end = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    answered: list[str] = []

    async def hold() -> None:
        async with open_channel(address) as channel:
            stream = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream()

            async def send() -> None:
                for number in range(JOBS):
                    job = job_to_message(large(f"slow {number}", fingerprint))
                    await stream.write(scoring_pb2.ScoreStreamRequest(job=job))
                await stream.done_writing()

            sending = asyncio.create_task(send())  # which a server may hold up, too
            begun.set()
            await end.wait()
            async for reply in stream:
                if reply.HasField("response"):
                    answered.append(reply.id)
            await sending

    thread = threading.Thread(target=loop.run_until_complete, args=(hold(),))
    thread.start()
    begun.wait()
    try:
        yield answered
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


@pytest.mark.parametrize("server", ["teacher", "intake"])
def test_replies_that_nobody_takes_do_not_pile_up_and_others_are_served(
    server: str, site: Site, remembering: Teacher, fingerprint: str
) -> None:
    intake = site.services("intake")
    site.services("dispatcher", teacher=remembering.address)
    address = {"teacher": remembering.address, "intake": site.intake}[server]
    process: Child = {"teacher": remembering, "intake": intake}[server]
    wait_until(lambda: is_ready(site.intake))

    def all_done() -> bool:
        """Whether the server has done for the stream what it does before its replies are taken."""
        if server == "intake":
            return site.run_stats("slow").done == JOBS
        return remembering.figure("tokens_running") == 0 and remembering.figure("held_bytes") > 0

    with ScoringClient(address, timeout=PATIENCE) as other:
        other.score(replace(large("first", fingerprint), run_id="other"))
        before = process.resident_bytes
        with unread_stream(address, fingerprint) as answered:
            for number in range(20):
                other.score(make_job(f"other {number}", fingerprint=fingerprint))
            wait_until(all_done)
            for number in range(20, 40):
                other.score(make_job(f"other {number}", fingerprint=fingerprint))
            assert process.resident_bytes - before < MOST_BYTES
    assert sorted(answered) == sorted(f"slow {number}" for number in range(JOBS))
