"""A queue that is full, and a run that floods it."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from counterhint.client import AsyncScoringClient
from counterhint.errors import Overloaded
from counterhint.jobs import ScoringJob
from counterhint.messages import job_to_message
from services.queue.base import JobQueue
from services.queue.records import JobState
from tests.faults.site import Site, Teacher, one_call
from tests.processes import wait_until
from tests.services.scripted_teacher import make_job

FLOOD, QUIET = 1000, 10


def test_a_full_queue_refuses_with_a_delay_after_which_there_is_room(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    site.services(teacher=teacher.address, flags=("--max-jobs", "2"))
    with site.client() as client:
        with teacher.standing_still():
            calls = [client.submit(make_job(name, fingerprint=fingerprint)) for name in "ab"]
            site.wait_for_state(JobState.CLAIMED, "a", "b")
            third = make_job("third", fingerprint=fingerprint)
            refusal = one_call(site.intake, job_to_message(third))
            assert isinstance(refusal, Overloaded)
            assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
            assert refusal.retry_after > 0
            assert "2" in refusal.message
            calls.append(client.submit(third))
        assert [call.result().job_id for call in calls] == ["a", "b", "third"]


def test_a_run_that_floods_gets_its_share_and_no_more(site: Site) -> None:
    address, log = f"unix://{site.folder}/scripted.sock", site.folder / "received"
    site.start(sys.executable, "-m", "tests.services.scripted_teacher", address, str(log))
    services = site.services(teacher=address)
    names = [f"flood {number}" for number in range(FLOOD)]
    names += [f"quiet {number}" for number in range(QUIET)]

    async def jobs() -> AsyncIterator[ScoringJob]:
        for name in names:
            yield make_job(name, run_id=name.split()[0])

    async def score_all() -> set[str]:
        async with AsyncScoringClient(site.intake) as client:
            return {job_id async for job_id, _ in client.score_stream(jobs())}

    async def pause(queue: JobQueue) -> None:
        for run in ("flood", "quiet"):
            await queue.pause(run)

    async def resume(queue: JobQueue) -> None:
        for run in ("flood", "quiet"):
            await queue.resume(run)

    async def run() -> set[str]:
        scoring = asyncio.create_task(score_all())
        await asyncio.to_thread(
            wait_until,
            lambda: sum(r.queued for r in site.ask(lambda q: q.stats())) == len(names),
        )
        with services.standing_still():  # both begin at once
            await asyncio.to_thread(site.ask, resume)
        return await scoring

    site.ask(pause)
    assert asyncio.run(run()) == set(names)
    received = log.read_text().splitlines()
    assert sorted(received) == sorted(names)  # each once
    last = max(received.index(f"quiet {number}") for number in range(QUIET))
    both_had_work = received[: last + 1]
    share = sum(name.startswith("quiet") for name in both_had_work) / len(both_had_work)
    assert share == pytest.approx(0.5, rel=0.1)
