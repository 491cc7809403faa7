"""What is forbidden, tried from outside against a real intake with tokens and TLS."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from counterhint import AsyncScoringClient, Credentials, server_security
from counterhint.authentication import Authentication
from counterhint.certificates import ServerTls
from counterhint.channel import (
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
    SERVER_OPTIONS,
    open_channel,
)
from counterhint.errors import (
    CounterhintError,
    InputError,
    PermissionDenied,
    Unauthenticated,
    error_from_rpc,
)
from counterhint.jobs import ScoringJob
from counterhint.messages import job_to_message
from counterhint.server_security import ServerSecurity
from counterhint.tokens import TokenFile
from counterhint.v1 import scoring_pb2, scoring_pb2_grpc
from deploy.cli import main
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from services.server import serve_intake
from tests.certificates import Authority
from tests.services.scripted_teacher import ScriptedTeacher, make_job

Run = Callable[[JobQueue, str], Awaitable[None]]


@dataclass
class Site:
    """Authorities, and a token file with three runs and an operator."""

    folder: Path
    authority: Authority
    stranger: Authority
    tokens: dict[str, str]

    @property
    def token_file(self) -> Path:
        return self.folder / "tokens.json"

    def tls(self, clients: bool = False) -> ServerTls:
        pair = self.authority.issue("server")
        return ServerTls(pair.cert, pair.key, self.authority.file if clients else None)

    def client(self, token: str | None, **more: Any) -> Credentials:
        """Credentials that are right, but for what is said."""
        return Credentials(**{"token": token, "tls_ca": self.authority.file} | more)


def new_token(file: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["tokens", "new", *arguments, "--file", str(file)]) == 0
    return capsys.readouterr().out.strip()


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    file = tmp_path / "tokens.json"
    tokens = {
        "maths": new_token(
            file, capsys, "maths", "--weight", "2", "--priority", "1", "--max-jobs", "5"
        ),
        "logic": new_token(file, capsys, "logic"),
        "full": new_token(file, capsys, "full", "--max-jobs", "0"),
        "operator": new_token(file, capsys, "dispatcher", "--operator"),
    }
    return Site(tmp_path, Authority(tmp_path, "site"), Authority(tmp_path, "stranger"), tokens)


@asynccontextmanager
async def an_intake(
    site: Site, tls: ServerTls | None, teacher: ScriptedTeacher | None = None
) -> AsyncIterator[tuple[JobQueue, str]]:
    """An intake with the site's tokens, and a worker that scores what is queued."""
    security = ServerSecurity(tls, Authentication(TokenFile(site.token_file)))
    teacher = teacher or ScriptedTeacher()

    async def work(queue: JobQueue) -> None:
        while True:
            claim = await queue.claim("worker", timeout=3600.0)
            assert claim is not None
            request = scoring_pb2.ScoreRequest.FromString(claim.payload)
            assert request.id == claim.id  # which dispatchers insist on
            response = await teacher._score(request)
            await queue.complete(claim, response.SerializeToString())

    async with MemoryQueue() as queue:
        await queue.publish_teacher(teacher.info, seconds=3600.0)
        async with serve_intake(queue, "127.0.0.1:0", security) as address:
            worker = asyncio.create_task(work(queue))
            try:
                yield queue, address
            finally:
                worker.cancel()


def with_intake(site: Site, tls: ServerTls | None, test: Run) -> None:
    async def run() -> None:
        async with an_intake(site, tls) as (queue, address):
            await test(queue, address)

    asyncio.run(run())


async def refusal(
    address: str, credentials: Credentials, job: ScoringJob, *headers: tuple[str, str]
) -> CounterhintError | None:
    """The error of one call without further tries; None when it is answered."""
    async with open_channel(address, credentials) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        metadata = (*credentials.metadata(), *headers)
        try:
            await stub.Score(job_to_message(job), metadata=metadata, timeout=240.0)
        except grpc.aio.AioRpcError as error:
            return error_from_rpc(error)
    return None


MATHS, LOGIC = make_job("a", run_id="maths-1f9c03ab"), make_job("a", run_id="logic")
NO_CONNECTION = "UNAVAILABLE UNAVAILABLE"

REFUSALS: dict[str, tuple[Callable[[Site], Credentials], ScoringJob, str]] = {
    "no token": (lambda site: site.client(None), MATHS, "UNAUTHENTICATED NO_TOKEN"),
    "a wrong token": (lambda site: site.client("chint_x"), MATHS, "UNAUTHENTICATED UNKNOWN_TOKEN"),
    "half a token": (
        lambda site: site.client(site.tokens["maths"][:-1]),
        MATHS,
        "UNAUTHENTICATED UNKNOWN_TOKEN",
    ),
    "the token of another run": (
        lambda site: site.client(site.tokens["maths"]),
        LOGIC,
        "PERMISSION_DENIED OTHER_RUN",
    ),
    "a run that only begins alike": (
        lambda site: site.client(site.tokens["maths"]),
        make_job("a", run_id="mathsish"),
        "PERMISSION_DENIED OTHER_RUN",
    ),
    "no run": (
        lambda site: site.client(site.tokens["maths"]),
        make_job("a", run_id=""),
        "PERMISSION_DENIED OTHER_RUN",
    ),
    "a priority above the run's": (
        lambda site: site.client(site.tokens["maths"]),
        replace(MATHS, priority=2),
        "INVALID_ARGUMENT PRIORITY_TOO_HIGH",
    ),
    "more than the run's quota": (
        lambda site: site.client(site.tokens["full"]),
        make_job("a", run_id="full"),
        "RESOURCE_EXHAUSTED QUEUE_FULL",
    ),
    "plaintext where TLS is spoken": (
        lambda site: Credentials(token=site.tokens["maths"]),
        MATHS,
        NO_CONNECTION,
    ),
    "a server of an unknown authority": (
        lambda site: site.client(site.tokens["maths"], tls_ca=site.stranger.file),
        MATHS,
        NO_CONNECTION,
    ),
    "too large a message": (
        lambda site: site.client(site.tokens["maths"]),
        make_job("a", tokens=MAX_MESSAGE_BYTES // 4 + 1, run_id="maths"),
        "RESOURCE_EXHAUSTED RESOURCE_EXHAUSTED",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_with_tls_and_tokens(
    case: str, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    credentials, job, expected = REFUSALS[case]

    async def test(queue: JobQueue, address: str) -> None:
        error = await refusal(address, credentials(site), job)
        assert error is not None
        assert f"{error.code.name} {error.reason}" == expected
        assert not any(run.queued or run.done for run in await queue.stats())
        assert await refusal(address, site.client(site.tokens["maths"]), MATHS) is None
        for token in site.tokens.values():
            assert token not in str(error) + str(error.details) + caplog.text

    with_intake(site, site.tls(), test)


@pytest.mark.parametrize("shown", ["none", "a stranger's", "an expired one", "the right one"])
def test_with_a_client_authority_a_certificate_is_needed(shown: str, site: Site) -> None:
    pair = {
        "none": None,
        "a stranger's": site.stranger.issue("other"),
        "an expired one": site.authority.issue("old", timedelta(hours=-1)),
        "the right one": site.authority.issue("client"),
    }[shown]
    own = {} if pair is None else {"tls_cert": pair.cert, "tls_key": pair.key}

    async def test(queue: JobQueue, address: str) -> None:
        credentials = site.client(site.tokens["maths"], **own)
        error = await refusal(address, credentials, MATHS)
        if shown == "the right one":
            assert error is None
        else:
            assert error is not None
            assert error.code is grpc.StatusCode.UNAVAILABLE

    with_intake(site, site.tls(clients=True), test)


@pytest.mark.parametrize(
    "header", ["Basic {}", "{}", "Bearer", "Bearer ", "Bearer {} {}", "bearer chint_", ""]
)
def test_other_forms_of_the_header_are_refused(header: str, site: Site) -> None:
    value = header.format(site.tokens["maths"], site.tokens["maths"])

    async def test(queue: JobQueue, address: str) -> None:
        error = await refusal(address, Credentials(), MATHS, ("authorization", value))
        assert isinstance(error, Unauthenticated)
        right = ("authorization", f"bEARER {site.tokens['maths']}")
        error = await refusal(address, Credentials(), MATHS, right, right)
        assert isinstance(error, Unauthenticated)  # which of two would be the caller?
        assert await refusal(address, Credentials(), MATHS, right) is None

    with_intake(site, None, test)


def test_headers_beyond_the_bound_are_refused(site: Site) -> None:
    async def test(queue: JobQueue, address: str) -> None:
        credentials = Credentials(token=site.tokens["maths"])
        error = await refusal(address, credentials, MATHS, ("x", "y" * MAX_METADATA_BYTES))
        assert error is not None
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await refusal(address, credentials, MATHS, ("x", "y" * 4096)) is None

    with_intake(site, None, test)


def test_strangers_may_ask_for_health_and_for_nothing_else(site: Site) -> None:
    async def test(queue: JobQueue, address: str) -> None:
        async def code(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> grpc.StatusCode:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            question = reflection_pb2.ServerReflectionRequest(list_services="")
            call = stub.ServerReflectionInfo(iter([question]), metadata=metadata)
            return await call.code()

        async with open_channel(address, site.client(None)) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest())
            scoring = scoring_pb2_grpc.ScoringServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await scoring.GetTeacher(scoring_pb2.GetTeacherRequest())
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            # Refused before a message of the stream is read, or even sent.
            assert await scoring.ScoreStream().code() is grpc.StatusCode.UNAUTHENTICATED
            assert await code(channel) is grpc.StatusCode.UNAUTHENTICATED
            metadata = site.client(site.tokens["maths"]).metadata()
            assert await code(channel, *metadata) is grpc.StatusCode.UNIMPLEMENTED

    with_intake(site, site.tls(), test)


def test_a_revoked_token_ends_at_the_next_job_even_of_an_open_stream(site: Site) -> None:
    async def test(queue: JobQueue, address: str) -> None:
        credentials = Credentials(token=site.tokens["maths"])
        async with open_channel(address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            stream = stub.ScoreStream(metadata=credentials.metadata())

            async def streamed(job: ScoringJob) -> scoring_pb2.ScoreStreamResponse:
                await stream.write(scoring_pb2.ScoreStreamRequest(job=job_to_message(job)))
                return await stream.read()

            assert (await streamed(MATHS)).response.id == "a"
            assert (await streamed(LOGIC)).failure.reason == "OTHER_RUN"
            arguments = ["tokens", "revoke", "maths", "--file", str(site.token_file)]
            assert main(arguments) == 0
            reply = await streamed(replace(MATHS, id="b"))
            assert (reply.id, reply.failure.reason) == ("b", "UNKNOWN_TOKEN")
        assert isinstance(await refusal(address, credentials, MATHS), Unauthenticated)
        other = Credentials(token=site.tokens["logic"])
        assert await refusal(address, other, LOGIC) is None

    with_intake(site, None, test)


def test_a_job_id_of_another_run_names_a_job_of_one_s_own(site: Site) -> None:
    """Nothing of the other run's job can be seen, joined or disturbed by its id."""

    async def test(queue: JobQueue, address: str) -> None:
        maths = Credentials(token=site.tokens["maths"])
        logic = Credentials(token=site.tokens["logic"])
        async with (
            AsyncScoringClient(address, credentials=maths) as first,
            AsyncScoringClient(address, credentials=logic) as second,
        ):
            mine = make_job("step-1", tokens=5, run_id="maths")
            assert (await first.score(mine)).job_id == "step-1"
            with pytest.raises(PermissionDenied):
                await second.score(mine)
            assert (await second.score(replace(LOGIC, id="step-1"))).job_id == "step-1"
            assert (await second.score(replace(LOGIC, id="maths/step-1"))).scores is not None
            assert (await first.score(mine)).job_id == "step-1"  # the same result, kept
        jobs = {run.run_id: run.done for run in await queue.stats()}
        assert jobs == {"maths": 1, "logic": 2}
        assert (await queue.job("maths/step-1")).run_id == "maths"
        assert (await queue.job("logic/maths/step-1")).run_id == "logic"

    with_intake(site, None, test)


def test_a_token_brings_its_run_s_policy_and_an_operator_may_act_for_any_run(site: Site) -> None:
    async def test(queue: JobQueue, address: str) -> None:
        assert await refusal(address, Credentials(token=site.tokens["maths"]), MATHS) is None
        policy = (await queue.run("maths")).policy
        assert (policy.weight, policy.max_priority, policy.max_jobs) == (2.0, 1, 5)
        operator = Credentials(token=site.tokens["operator"])
        job = replace(LOGIC, id="by hand", priority=3)
        assert await refusal(address, operator, job) is None
        assert (await queue.job("by hand")).run_id == "logic"
        assert (await queue.run("maths")).policy == policy

    with_intake(site, None, test)


def test_new_certificates_are_used_for_the_next_connection(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    tls = site.tls()
    right = tls.cert.read_bytes()

    async def test(queue: JobQueue, address: str) -> None:
        old, new = (
            site.client(site.tokens["maths"], tls_ca=authority.file)
            for authority in (site.authority, site.stranger)
        )
        assert await refusal(address, old, MATHS) is None
        tls.cert.write_bytes(right[:100])
        assert await refusal(address, old, MATHS) is None
        assert "is no PEM certificate" in caplog.text
        site.stranger.issue("server")  # into the same files
        assert await refusal(address, old, MATHS) is not None
        assert await refusal(address, new, MATHS) is None

    with_intake(site, tls, test)


def set_server_option(monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
    options = dict(SERVER_OPTIONS)
    assert name in options
    options[name] = value
    monkeypatch.setattr(server_security, "SERVER_OPTIONS", list(options.items()))


def test_calls_beyond_the_bound_of_a_connection_wait_at_the_client(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_server_option(monkeypatch, "grpc.max_concurrent_streams", 2)

    async def run() -> None:
        teacher, credentials = ScriptedTeacher(), Credentials(token=site.tokens["logic"])
        teacher.open.clear()
        async with (
            an_intake(site, None, teacher) as (queue, address),
            AsyncScoringClient(address, credentials=credentials, timeout=240.0) as client,
        ):

            async def accepted() -> int:
                return sum(run.queued + run.claimed for run in await queue.stats())

            await client.get_teacher()  # by now the client knows the bound
            calls = [
                asyncio.create_task(client.score(replace(LOGIC, id=str(number))))
                for number in range(5)
            ]
            while await accepted() < 2:  # noqa: ASYNC110 - the queue's state
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert await accepted() == 2
            teacher.open.set()
            assert [(await call).job_id for call in calls] == list("01234")

    asyncio.run(run())


def test_a_connection_s_end_of_age_costs_no_call(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients connect again by themselves; what is under way goes on."""
    set_server_option(monkeypatch, "grpc.max_connection_age_ms", 300)

    async def test(queue: JobQueue, address: str) -> None:
        credentials = site.client(site.tokens["maths"])
        async with AsyncScoringClient(address, credentials=credentials, timeout=240.0) as client:

            async def jobs() -> AsyncIterator[ScoringJob]:
                for number in range(10):
                    yield replace(MATHS, id=f"streamed {number}")
                    await asyncio.sleep(0.08)

            async def calls() -> None:
                for number in range(20):
                    assert (await client.score(replace(MATHS, id=f"{number}"))).scores is not None
                    await asyncio.sleep(0.06)

            calling = asyncio.create_task(calls())
            outcomes = [outcome async for _, outcome in client.score_stream(jobs())]
            assert not any(isinstance(outcome, CounterhintError) for outcome in outcomes)
            assert len(outcomes) == 10
            await calling

    with_intake(site, site.tls(), test)


def test_a_token_does_not_leave_the_machine_in_plaintext(site: Site) -> None:
    credentials = Credentials(token=site.tokens["maths"])
    for address in ("10.0.0.1:50050", "teacher.example:50050", "[::]:50050", "dns:///localhost:1"):
        with pytest.raises(InputError, match=f"would go to {address}".replace("[", r"\[")) as error:
            AsyncScoringClient(address, credentials=credentials)
        assert site.tokens["maths"] not in str(error.value)
    for allowed in (
        replace(credentials, insecure=True),
        replace(credentials, tls_ca=site.authority.file),
    ):
        allowed.check("teacher.example:50050")
    assert site.tokens["maths"] not in repr(credentials)
