"""Workers (dispatchers) that are killed, paused and stopped while a teacher has their jobs."""

import signal

import numpy as np
import pytest

from services.queue.records import JobState
from tests.faults.site import Child, Site, Teacher, http_status
from tests.processes import wait_until
from tests.services.scripted_teacher import make_job


@pytest.fixture
def intake(site: Site) -> Child:
    return site.services("intake")


def worker(site: Site, teacher: Teacher, *flags: str) -> Child:
    return site.services("dispatcher", teacher=teacher.address, flags=flags)


@pytest.mark.usefixtures("intake")
def test_the_job_of_a_killed_worker_is_taken_over(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    job = make_job("a", fingerprint=fingerprint)
    first = worker(site, teacher)
    with site.client() as client:
        with teacher.standing_still():
            call = client.submit(job)
            site.wait_for_state(JobState.CLAIMED, "a")
            first.kill()
        worker(site, teacher)
        result = call.result()
    with teacher.client() as direct:
        np.testing.assert_array_equal(result.scores.sampled, direct.score(job).scores.sampled)
    assert site.job("a").attempt == 2
    assert site.run_stats().done == 1


@pytest.mark.usefixtures("intake")
def test_the_late_result_of_a_paused_worker_is_discarded(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    paused = worker(site, teacher)
    with site.client() as client:
        with teacher.standing_still():
            call = client.submit(make_job("a", fingerprint=fingerprint))
            site.wait_for_state(JobState.CLAIMED, "a")
            paused.send(signal.SIGSTOP)
        worker(site, teacher)
        call.result()
        assert site.job("a").attempt == 2
        paused.send(signal.SIGCONT)
        paused.wait_until_said("job a: lease lost, what came of it is discarded")
    assert site.run_stats().done == 1


@pytest.mark.usefixtures("intake")
def test_a_worker_that_is_stopped_is_not_ready_and_finishes_what_it_has_begun(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    stopped = worker(site, teacher, "--metrics-listen", "127.0.0.1:0", "--drain-seconds", "60")
    probes = stopped.wait_until_said("metrics on ").removesuffix("/metrics")
    wait_until(lambda: http_status(f"{probes}/ready") == 200)
    with site.client() as client:
        with teacher.standing_still():
            begun = client.submit(make_job("begun", fingerprint=fingerprint))
            site.wait_for_state(JobState.CLAIMED, "begun")
            stopped.send(signal.SIGTERM)
            wait_until(lambda: http_status(f"{probes}/ready") != 200)
            waiting = client.submit(make_job("waiting", fingerprint=fingerprint))
            site.wait_for_state(JobState.QUEUED, "waiting")
        begun.result()
        assert stopped.wait() == 0
        assert site.job("begun").attempt == 1
        released = site.job("waiting")
        assert (released.state, released.failures) == (JobState.QUEUED, 0)
        worker(site, teacher)
        waiting.result()


@pytest.mark.usefixtures("intake")
def test_a_worker_that_is_stopped_releases_what_cannot_be_finished(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    stopped = worker(site, teacher, "--drain-seconds", "0.2", "--teacher-jobs", "2")
    names = ("a", "b", "never begun")
    with site.client() as client:
        with teacher.standing_still():
            calls = []
            for name, state in zip(names, ("claimed", "claimed", "queued"), strict=True):
                calls.append(client.submit(make_job(name, fingerprint=fingerprint)))
                site.wait_for_state(JobState(state), name)
            stopped.send(signal.SIGTERM)
            assert stopped.wait() == 0
            for name in names:
                job = site.job(name)
                assert (job.state, job.failures) == (JobState.QUEUED, 0)
        worker(site, teacher)
        assert [call.result().job_id for call in calls] == list(names)
    assert site.run_stats().done == 3
