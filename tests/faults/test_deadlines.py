"""Jobs whose time is over, and jobs whose client has gone."""

import json
import sys

import pytest

from counterhint.errors import DeadlinePassed
from deploy.cli import main
from services.queue.records import JobState
from tests.faults.site import Child, Site, Teacher
from tests.processes import wait_until
from tests.services.scripted_teacher import make_job


def test_a_deadline_that_passes_in_the_queue_costs_no_compute(
    site: Site, teacher: Teacher, fingerprint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.services(teacher=teacher.address)
    before = teacher.figure("tokens_naive_total")
    assert main(["runs", "pause", "run", "--redis", site.redis.url]) == 0
    with site.client() as client:
        client.get_teacher()  # connected, so that the job is in the queue long before its deadline
        with pytest.raises(DeadlinePassed) as passed:
            client.score(make_job("late", tokens=50, fingerprint=fingerprint), timeout=5.0)
        assert passed.value.code.name == "DEADLINE_EXCEEDED"
        wait_until(lambda: site.run_stats().expired == 1)
        assert main(["runs", "resume", "run", "--redis", site.redis.url]) == 0
        client.score(make_job("next", fingerprint=fingerprint))
    capsys.readouterr()
    assert main(["runs", "show", "run", "--json", "--redis", site.redis.url]) == 0
    accounts = json.loads(capsys.readouterr().out)
    assert (accounts["expired"], accounts["done"]) == (1, 1)
    assert accounts["tokens"] == accounts["tokens_computed"] == 6  # of the next one alone
    assert teacher.figure("tokens_naive_total") - before == 6


def client(site: Site, address: str, job_id: str, tokens: int, contexts: int) -> Child:
    words = (address, job_id, "run", str(tokens), str(contexts))
    return site.start(sys.executable, "-m", "tests.faults.client_process", *words)


def test_the_queued_job_of_a_client_that_is_killed_is_kept(site: Site, teacher: Teacher) -> None:
    site.services(teacher=teacher.address)
    with teacher.standing_still():
        gone = client(site, site.intake, "a", 4, 1)
        site.wait_for_state(JobState.CLAIMED, "a")
        gone.kill()
    site.wait_for_state(JobState.DONE, "a")
    back = client(site, site.intake, "a", 4, 1)
    assert back.wait() == 0, back.said
    assert len(json.loads(back.said)["scores"]) == 4
    assert (site.job("a").attempt, site.run_stats().done) == (1, 1)


def test_a_teacher_s_own_job_of_a_client_that_is_killed_is_ended(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    """The job takes 56 batches; it ends before its next one."""
    scored, cancelled = 'jobs_total{reason="OK"}', 'jobs_total{reason="CANCELLED"}'
    batches, before = teacher.figure("engine_progress"), teacher.figure(scored)
    ended = teacher.figure(cancelled)
    gone = client(site, teacher.address, "large", 250, 3600)
    wait_until(lambda: teacher.figure("engine_progress") >= batches + 3)
    with teacher.standing_still():  # so that it cannot end before its client does
        gone.kill()
    wait_until(lambda: teacher.figure(cancelled) > ended)
    wait_until(lambda: teacher.figure("tokens_running") == 0)  # a moment after it is counted
    with teacher.client() as direct:
        direct.score(make_job("next", fingerprint=fingerprint))
    assert teacher.figure("engine_progress") < batches + 50
    assert teacher.figure(scored) == before + 1
