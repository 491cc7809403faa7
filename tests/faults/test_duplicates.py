"""One job sent by two processes."""

import json
import sys

from services.queue.records import JobState
from tests.faults.site import Child, Site, Teacher


def client(site: Site, tokens: int) -> Child:
    """A process that sends job `same` of the run `run`."""
    module = "tests.faults.client_process"
    return site.start(sys.executable, "-m", module, site.intake, "same", "run", str(tokens))


def answer(child: Child) -> dict[str, object]:
    assert child.wait() == 0, child.said
    return dict(json.loads(child.said))


def test_the_same_job_from_two_processes_is_one_and_other_content_is_refused(
    site: Site, teacher: Teacher
) -> None:
    services = site.services(teacher=teacher.address, flags=("--metrics-listen", "127.0.0.1:0"))
    naive = teacher.figure("tokens_naive_total")
    with teacher.standing_still():
        both = [client(site, 4), client(site, 4)]
        site.wait_for_state(JobState.CLAIMED, "same")
        other = answer(client(site, 5))
        assert (other["code"], other["reason"]) == ("ALREADY_EXISTS", "JOB_CONFLICT")
        assert not any(child.ended for child in both)
    first, second = map(answer, both)
    assert first == second
    assert len(list(first["scores"])) == 4
    assert answer(client(site, 4)) == first  # its result is kept
    assert answer(client(site, 5)) == other
    stats = site.run_stats()
    assert (stats.done, stats.tokens) == (1, 6)
    assert teacher.figure("tokens_naive_total") - naive == 6
    assert not services.ended
