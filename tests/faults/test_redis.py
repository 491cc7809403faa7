"""Redis killed, emptied and full: what was accepted stays, or its clients send it again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from resource import RLIM_INFINITY, RLIMIT_FSIZE, prlimit

import pytest
import redis

from counterhint.errors import Overloaded
from counterhint.messages import job_to_message
from services.queue.records import JobState
from tests.faults.site import Child, Site, Teacher, is_ready, one_call
from tests.processes import wait_until
from tests.services.scripted_teacher import make_job

Full = Callable[[Site, Child], AbstractContextManager[None]]
NAMES = [f"job {number}" for number in range(6)]


def wipe(site: Site) -> None:
    """Kills Redis and starts it with nothing in it."""
    site.redis.kill()
    for file in site.redis.folder.glob("appendonly*"):
        file.unlink()
    site.redis.start()


def test_accepted_jobs_survive_a_killed_redis_and_everybody_connects_again(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    intake = site.services("intake")
    site.services("dispatcher", teacher=teacher.address, flags=("--teacher-jobs", "2"))
    with site.client() as client:
        client.score(make_job("first", fingerprint=fingerprint))
        with teacher.standing_still():
            jobs = [make_job(name, fingerprint=fingerprint) for name in NAMES]
            calls = site.submit_in_order(client, *jobs)
            wait_until(lambda: site.run_stats().claimed + site.run_stats().queued == len(NAMES))
            with redis.Redis.from_url(site.redis.url) as direct:  # what it has answered is written
                wait_until(lambda: not direct.info("persistence")["aof_buffer_length"])
            with intake.standing_still():  # nobody sends anything again
                site.redis.kill()
                site.redis.start()
                stats = site.run_stats()
                assert (stats.done, stats.queued + stats.claimed) == (1, len(NAMES))
        assert [call.result().job_id for call in calls] == NAMES
        client.score(make_job("last", fingerprint=fingerprint))
    assert site.run_stats().done == len(NAMES) + 2


@pytest.mark.parametrize("services_too", [False, True], ids=["redis", "redis and services"])
def test_jobs_that_an_emptied_redis_forgot_are_sent_again(
    site: Site, teacher: Teacher, fingerprint: str, services_too: bool
) -> None:
    flags = ("--teacher-jobs", "2")
    services = site.services(teacher=teacher.address, flags=flags)
    with site.client() as client:
        with teacher.standing_still():
            jobs = [make_job(name, fingerprint=fingerprint) for name in NAMES]
            calls = site.submit_in_order(client, *jobs)
            site.wait_for_state(JobState.CLAIMED, NAMES[0], NAMES[1])
            site.wait_for_state(JobState.QUEUED, *NAMES[2:])
            if services_too:
                services.kill()
            wipe(site)
        if services_too:
            site.services(teacher=teacher.address, flags=flags)
        assert [call.result().job_id for call in calls] == NAMES
    assert site.run_stats().done == len(NAMES)


@contextmanager
def no_memory(site: Site, server: Child) -> Iterator[None]:
    with redis.Redis.from_url(site.redis.url) as direct:
        direct.config_set("maxmemory", 1)
        try:
            yield
        finally:
            direct.config_set("maxmemory", 0)


@contextmanager
def no_disk(site: Site, server: Child) -> Iterator[None]:
    """Its files may not grow: writing to them fails, as on a full disk."""
    prlimit(server.process.pid, RLIMIT_FSIZE, (0, RLIM_INFINITY))
    try:
        yield
    finally:
        prlimit(server.process.pid, RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))


@pytest.mark.parametrize("full", [no_memory, no_disk])
def test_a_full_redis_takes_no_jobs_until_it_has_room_by_itself(
    site: Site, teacher: Teacher, fingerprint: str, full: Full
) -> None:
    site.redis.kill()
    # SIGXFSZ stays ignored, as Python has it, so that a write beyond the limit is an error.
    server = site.start(*site.redis.command, restore_signals=False)
    site.redis.wait_until_ready()
    site.services(teacher=teacher.address)
    with site.client() as client:
        client.score(make_job("before", fingerprint=fingerprint))
        wait_until(lambda: is_ready(site.intake))
        with full(site, server):
            wait_until(lambda: not is_ready(site.intake))
            refusal = one_call(
                site.intake, job_to_message(make_job("refused", fingerprint=fingerprint))
            )
            assert isinstance(refusal, Overloaded)
            assert refusal.reason == "QUEUE_TAKES_NO_WRITES"
            assert refusal.retry_after > 0
            waiting = client.submit(make_job("waiting", fingerprint=fingerprint))
            assert not waiting.done()
        assert waiting.result().job_id == "waiting"
        wait_until(lambda: is_ready(site.intake))
    assert not server.ended
    assert site.run_stats().done == 2
