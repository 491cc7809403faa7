"""Jobs that are cancelled, that vLLM refuses, and that are under way when its engine dies."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from counterhint import Outputs, ScoringJob
from counterhint.errors import ENGINE_DEAD, EngineFailure, InvalidJob, Unavailable
from tests.teacher_server.engines.vllm.vllm_teacher import VllmTeacher
from tests.teacher_server.jobs import random_job
from tests.teacher_server.running import until

pytestmark = pytest.mark.vllm

ON_LLAMA = pytest.mark.parametrize("teacher", ["llama"], indirect=True)


def long_job(seed: int = 0) -> ScoringJob:
    """Fourteen steps of vLLM at least."""
    pairs = [(context, response) for context in range(40) for response in range(10)]
    return random_job([120] * 40, [130] * 10, pairs, id=f"long-{seed}", seed=seed)


async def handed_over(teacher: VllmTeacher, *jobs: ScoringJob) -> list[asyncio.Task]:
    """Tasks that score jobs, once vLLM's engine, which stands still, has all their requests."""
    tasks = [asyncio.create_task(teacher.engine.score(job)) for job in jobs]
    requests = sum(len(job.pairs) for job in jobs)
    await until(lambda: teacher.engine._llm.get_num_unfinished_requests() == requests)
    return tasks


async def begun(teacher: VllmTeacher, *jobs: ScoringJob) -> list[asyncio.Task]:
    """Tasks that score jobs, once vLLM has begun with them; none has ended.

    On a machine so fast, or so busy with others, that a job ends before this is seen, all of them
    are scored once more.
    """
    while True:
        steps = teacher.engine.progress()
        with teacher.engine_standing_still():
            tasks = await handed_over(teacher, *jobs)
        await until(lambda: teacher.engine.progress() > steps)  # noqa: B023 - of this round
        if not any(task.done() for task in tasks):
            return tasks
        await asyncio.gather(*tasks)


@ON_LLAMA
def test_a_cancelled_job_leaves_nothing_behind_in_vllm(teacher: VllmTeacher):
    async def cancel_and_go_on() -> None:
        (task,) = await begun(teacher, long_job())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        llm = teacher.engine._llm
        assert llm.get_num_unfinished_requests() == 0
        # vLLM's other process forgets its cache only when no request holds a part of it.
        while not await llm.reset_prefix_cache():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)

    teacher.loop.run(cancel_and_go_on())
    job = random_job((40,), (20,), [(0, 0)])
    (scored,) = teacher.score(job)
    teacher.check(job, scored)


@ON_LLAMA
def test_a_cancelled_job_takes_no_other_with_it(teacher: VllmTeacher):
    kept = replace(long_job(1), outputs=Outputs(top_k=2, entropy=True))

    async def cancel_one() -> list:
        first, second = await begun(teacher, long_job(), kept)
        first.cancel()
        return await asyncio.gather(first, second, return_exceptions=True)

    cancelled, scored = teacher.loop.run(cancel_one())
    assert isinstance(cancelled, asyncio.CancelledError)
    teacher.check(kept, scored)


@ON_LLAMA
def test_what_vllm_refuses_fails_with_one_plain_error(teacher: VllmTeacher):
    """Every pair of the job fails at once. The server would not have let it in."""
    job = random_job((300,), (5, 6), [(0, 0), (0, 1)])
    with pytest.raises(EngineFailure) as failure:
        teacher.loop.run(teacher.engine.score(job))
    assert failure.value.reason == "ENGINE_FAILED"
    job = random_job((40,), (20,), [(0, 0)])
    teacher.check(job, teacher.score(job)[0])


@ON_LLAMA
@pytest.mark.parametrize("where", ["contexts", "responses", "token_ids"])
def test_ids_outside_the_vocabulary_do_not_reach_vllm(teacher: VllmTeacher, where: str):
    """They would end it."""
    job = random_job((40,), (20,), [(0, 0)], given=1, outputs=Outputs(given=True))
    outside = np.full((20, 1) if where == "token_ids" else 20, 64, dtype=np.int32)
    job = replace(job, **{where: outside if where == "token_ids" else (outside,)})
    with pytest.raises(InvalidJob, match="token id 64"):
        teacher.loop.run(teacher.engine.score(job))


@pytest.mark.parametrize("teacher", ["mortal"], indirect=True)
def test_a_dead_engine_is_told_of_at_once(teacher: VllmTeacher):
    async def kill() -> list[BaseException]:
        with teacher.engine_standing_still():
            tasks = await handed_over(teacher, long_job(1), long_job(2))
            assert not teacher.engine.dead()
            teacher.engine_process().kill()
        await until(teacher.engine.dead)
        under_way = await asyncio.gather(*tasks, return_exceptions=True)
        later = await asyncio.gather(
            teacher.engine.score(random_job((3,), (2,), [(0, 0)])), return_exceptions=True
        )
        return [*under_way, *later]

    for error in teacher.loop.run(kill()):
        assert isinstance(error, Unavailable)
        assert error.reason == ENGINE_DEAD
