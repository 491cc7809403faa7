"""What a job cost, as it is told with its scores."""

import pytest

from tests.teacher_server.engines.vllm.setups import BLOCK
from tests.teacher_server.engines.vllm.vllm_teacher import VllmTeacher
from tests.teacher_server.jobs import random_job

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("teacher", ["llama"], indirect=True)
def test_jobs_side_by_side_share_the_seconds_of_the_steps(teacher: VllmTeacher) -> None:
    jobs = [
        random_job((2 * BLOCK, 40), (90, 20), [(0, 0), (0, 1), (1, 0)], seed=seed, vocab_size=64)
        for seed in (71, 72)
    ]
    teacher.loop.run(teacher.engine.take_step_seconds())
    scored = teacher.score(*jobs)
    steps = teacher.loop.run(teacher.engine.take_step_seconds())
    assert steps is not None
    assert all(one.seconds > 0 for one in scored)
    # Nobody else was there; a step that carries no tokens belongs to nobody.
    assert sum(one.seconds for one in scored) <= steps * (1 + 1e-6)


@pytest.mark.parametrize("teacher", ["public"], indirect=True)
def test_without_the_workers_clock_the_time_of_the_job_is_told(teacher: VllmTeacher) -> None:
    (scored,) = teacher.score(random_job((40,), (20,), [(0, 0)], seed=73, vocab_size=64))
    assert scored.seconds > 0
    assert teacher.loop.run(teacher.engine.take_step_seconds()) is None
