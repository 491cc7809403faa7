"""Workers whose clocks are 10 minutes behind and ahead of the others'."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from counterhint.errors import DeadlinePassed
from services.queue.records import JobState
from tests.faults.site import Site, Teacher
from tests.processes import wait_until
from tests.services.scripted_teacher import make_job


def clock(minutes: int) -> dict[str, str]:
    """The environment of a process whose clock is off."""
    path = [str(Path(__file__).parent / "shifted_clock"), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "SHIFTED_CLOCK_SECONDS": str(60 * minutes),
    }


def test_clocks_that_are_apart_change_nothing(
    site: Site, teacher: Teacher, fingerprint: str
) -> None:
    # Long leases: on a busy machine, too, only a clock could end one that is renewed.
    site.services("intake", lease_seconds=6.0)
    behind = site.services(
        "dispatcher", teacher=teacher.address, environment=clock(-10), lease_seconds=6.0
    )
    with site.client() as client:
        call = client.submit(make_job("a", fingerprint=fingerprint))
        result = call.result()
        assert 0 <= result.cost.wait_seconds < 300  # the clocks are 600 s apart
        with teacher.client() as direct:
            expected = direct.score(make_job("a", fingerprint=fingerprint))
        np.testing.assert_array_equal(result.scores.sampled, expected.scores.sampled)
        with teacher.standing_still():
            # A lease that holds is not taken over, however wrong the other's clock is.
            held = client.submit(make_job("held", fingerprint=fingerprint))
            site.wait_for_state(JobState.CLAIMED, "held")
            ahead = site.start(*behind.process.args, environment=clock(10))
            ahead.wait_until_said("dispatcher ")  # from now on it looks for leases that have ended
            with pytest.raises(DeadlinePassed):
                client.score(make_job("late", fingerprint=fingerprint), timeout=3.0)
            assert (site.job("held").state, site.job("held").attempt) == (JobState.CLAIMED, 1)
            behind.kill()
        assert held.result().job_id == "held"
        wait_until(lambda: site.run_stats().expired == 1)
    assert (site.run_stats().done, site.job("held").attempt) == (2, 2)


def test_the_clock_of_these_processes_is_really_off() -> None:
    command = [sys.executable, "-c", "import time; print(time.time())"]
    told = subprocess.check_output(command, env={**os.environ, **clock(10)})
    assert float(told) - time.time() > 500
