"""Teachers that ask for tokens and certificates, behind a dispatcher and without one."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from counterhint import AsyncScoringClient, Credentials
from counterhint.authentication import Authentication
from counterhint.certificates import ServerTls
from counterhint.channel import open_channel
from counterhint.errors import PermissionDenied, Unauthenticated
from counterhint.messages import job_to_message
from counterhint.server_security import ServerSecurity
from counterhint.tokens import Grant, TokenFile, TokenTable, new_token, now, write_table
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from services.dispatcher import Dispatcher
from services.queue.memory import MemoryQueue
from services.server import serve_intake
from tests.certificates import Authority
from tests.services.scripted_teacher import make_job
from tests.teacher_server.running import ZeroEngine, running_teacher, until

JOB = make_job("a", run_id="maths")


def security(folder: Path, authority: Authority) -> tuple[ServerSecurity, str, str]:
    """A server's, with the tokens of an operator and of the run `maths`."""
    (operator, first), (maths, second) = new_token(), new_token()
    table = TokenTable(
        operators={"dispatcher": {first: now()}}, runs={"maths": Grant(tokens={second: now()})}
    )
    write_table(folder / "tokens.json", table)
    pair = authority.issue("teacher")
    tls = ServerTls(pair.cert, pair.key, client_ca=authority.file)
    tokens = Authentication(TokenFile(folder / "tokens.json"))
    return ServerSecurity(tls, tokens), operator, maths


def test_a_dispatcher_takes_jobs_to_a_teacher_that_asks_for_token_and_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a run's token instead, jobs wait until the operator has corrected it."""
    caplog.set_level(logging.INFO)
    authority = Authority(tmp_path, "site")
    secured, operator, maths = security(tmp_path, authority)
    own, file = authority.issue("dispatcher"), tmp_path / "dispatcher.token"
    credentials = Credentials(
        token_file=file, tls_ca=authority.file, tls_cert=own.cert, tls_key=own.key
    )

    async def run() -> None:
        file.write_text("chint_nobody")
        intake = f"unix://{tmp_path}/i.sock"
        async with (
            running_teacher(ZeroEngine(), security=secured) as teacher,
            MemoryQueue() as queue,
            serve_intake(queue, intake),
            AsyncScoringClient(intake, timeout=240.0) as client,
            asyncio.TaskGroup() as tasks,
        ):
            dispatcher = Dispatcher(queue, [teacher.address], credentials=credentials)
            tasks.create_task(dispatcher.run())
            await until(lambda: "not connected: the call's token is not known" in caplog.text)
            file.write_text(maths)
            await until(lambda: dispatcher.connected)
            assert (await client.score(JOB)).job_id == "a"
            call = asyncio.create_task(client.score(replace(JOB, id="b", run_id="logic")))
            await until(lambda: "refuses our token: the token is for the run" in caplog.text)
            assert (await queue.job("b")).failures == 0
            dispatcher.stop()
            file.write_text(operator)
            second = Dispatcher(queue, [teacher.address], credentials=credentials)
            tasks.create_task(second.run())
            assert (await call).job_id == "b"
            second.stop()

    asyncio.run(run())
    for token in (operator, maths, "chint_nobody"):
        assert token not in caplog.text


def test_without_a_queue_the_teacher_itself_keeps_runs_apart(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "site")
    secured, _, maths = security(tmp_path, authority)
    own = authority.issue("trainer")
    right = Credentials(token=maths, tls_ca=authority.file, tls_cert=own.cert, tls_key=own.key)

    async def run() -> None:
        async with running_teacher(ZeroEngine(), security=secured) as teacher:
            async with AsyncScoringClient(teacher.address, credentials=right) as client:
                assert (await client.score(JOB)).job_id == "a"
                with pytest.raises(PermissionDenied):
                    await client.score(replace(JOB, run_id="logic"))
            async with open_channel(teacher.address, right) as channel:
                stream = scoring_pb2_grpc.ScoringServiceStub(channel).ScoreStream(
                    metadata=right.metadata()
                )
                for run_id in ("logic", "maths"):
                    job = job_to_message(replace(JOB, run_id=run_id))
                    await stream.write(scoring_pb2.ScoreStreamRequest(job=job))
                await stream.done_writing()
                reasons = {reply.failure.reason async for reply in stream}
                assert reasons == {"OTHER_RUN", ""}
            without = replace(right, token=None)
            async with AsyncScoringClient(teacher.address, credentials=without) as client:
                with pytest.raises(Unauthenticated):
                    await client.get_teacher()

    asyncio.run(run())
