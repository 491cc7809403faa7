"""Real teacher processes whose engine dies, hangs or never becomes ready."""

import asyncio
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from counterhint import AsyncScoringClient, ScoringJob
from counterhint.channel import open_channel
from counterhint.command_line import EXIT_ENGINE_DEAD
from counterhint.errors import CounterhintError, DeadlinePassed, Unavailable
from counterhint.messages import job_to_message
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from tests.teacher_server.broken_child import fingerprint, reasons
from tests.teacher_server.jobs import SMALL, random_job


@pytest.mark.parametrize(
    ("id", "reason", "told"),
    [
        ("die", "ENGINE_DEAD", "the engine core died"),
        ("hang", "ENGINE_HANGING", "no progress for --hang-seconds 1"),
    ],
)
def test_a_lost_engine_ends_the_process_and_only_its_job_counts(start_broken, id, reason, told):
    teacher = start_broken("hang_seconds=1")
    waiting = ("waiting", "waiting too")
    found = asyncio.run(reasons(teacher, "first", id, *waiting, until_lost=True))
    assert (found.pop("first"), found.pop(id)) == ("OK", reason)
    # The others are told that they were not begun, one by one or by the stream's end.
    assert found.pop("stream") == "DRAINING"
    assert set(found) <= set(waiting)
    assert set(found.values()) <= {"DRAINING"}
    assert teacher.exit_code() == EXIT_ENGINE_DEAD == 70
    assert told in teacher.errors()
    if id == "hang":  # where it hangs can be seen
        assert "concurrent/futures/thread.py" in teacher.errors()
        assert "the engine did not end within 0.5 s" in teacher.errors()


def test_an_engine_that_fails_every_job_is_dead(start_broken):
    teacher = start_broken()
    found = asyncio.run(reasons(teacher, "crash", "good", until_lost=False))
    assert found == {"crash": "ENGINE_FAILED", "good": "OK"}
    found = asyncio.run(reasons(teacher, "sicken", until_lost=True))
    assert found == {"sicken": "ENGINE_FAILED", "stream": "DRAINING"}
    assert teacher.exit_code() == EXIT_ENGINE_DEAD
    assert "one token cannot be scored: RuntimeError('CUDA error" in teacher.errors()


def test_a_hanging_engine_does_not_hold_up_a_drain(start_broken):
    teacher = start_broken("drain_seconds=0.5")

    async def run() -> str:
        async with open_channel(teacher.address) as channel:
            job = random_job(**SMALL, id="hang", tokenizer_fingerprint=await fingerprint(channel))
            stream: Any = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream()
            await stream.write(scoring_pb2.ScoreStreamRequest(job=job_to_message(job)))
            probe = health_pb2_grpc.HealthStub(channel)  # answered after the job was taken
            await probe.Check(health_pb2.HealthCheckRequest())
            teacher.process.terminate()
            return str((await stream.read()).failure.reason)

    assert asyncio.run(run()) == "DRAINING"
    assert teacher.exit_code() == 0


def test_a_teacher_that_scores_no_first_token_in_time_ends(start_broken):
    teacher = start_broken("ready_seconds=0")
    assert teacher.line == ""
    assert teacher.exit_code() == EXIT_ENGINE_DEAD
    assert "no token was scored within --ready-seconds 0" in teacher.errors()


def test_a_client_without_a_queue_is_told_to_come_again(start_broken):
    teacher = start_broken()
    told: list[CounterhintError] = []

    async def run() -> None:
        async with AsyncScoringClient(teacher.address, on_retry=told.append) as client:
            known = (await client.get_teacher()).tokenizer_fingerprint
            job: ScoringJob = random_job(**SMALL, id="die", tokenizer_fingerprint=known)
            # It tries as long; the last try may begin when there is no time left for an answer.
            with pytest.raises((Unavailable, DeadlinePassed)):
                await client.score(job, timeout=4)

    asyncio.run(run())
    assert (told[0].code.name, told[0].reason) == ("UNAVAILABLE", "ENGINE_DEAD")
    assert teacher.exit_code() == EXIT_ENGINE_DEAD
