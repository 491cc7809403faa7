"""The gateway's server: bounds, headers, time-outs, clients that go, TLS, the command line."""

import asyncio
import json
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import httpx
import pytest

from counterhint.authentication import Authentication
from counterhint.certificates import ServerTls
from counterhint.errors import InputError
from counterhint.server_security import ServerSecurity
from counterhint.tokens import Grant, TokenFile, TokenTable, new_token, now, write_table
from deploy.cli import main
from services.gateway.server import serve_gateway
from services.gateway.state import Limits
from services.gateway.tokenizer import Tokenizer
from services.queue.base import JobQueue
from services.queue.memory import MemoryQueue
from tests.certificates import Authority
from tests.processes import wait_until
from tests.services.gateway.running import (
    EXAMPLE,
    RAW,
    gateway_client,
    scripted,
    until,
    with_gateway,
)

JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def queue_with_teacher(tokenizer: Tokenizer) -> AsyncIterator[JobQueue]:
    """A queue whose jobs nobody takes."""
    async with MemoryQueue() as queue:
        await queue.publish_teacher(scripted(tokenizer).info, 600.0)
        yield queue


def test_probes_and_figures() -> None:
    async def use(client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert (await client.get("/ready")).json() == {"status": "ok"}
        figures = await client.get("/metrics")
        assert figures.headers["content-type"].startswith("text/plain")
        assert 'counterhint_gateway_requests_total{route="/ready",status="200"}' in figures.text
        (teacher,) = (await client.get("/v1/teachers")).json()["teachers"]
        assert (teacher["model_id"], teacher["takes_text"]) == ("scripted", False)
        models = (await client.get("/v1/models")).json()
        assert models["object"] == "list"
        assert [model["id"] for model in models["data"]] == ["scripted"]

    with_gateway(use)


def test_without_a_teacher_it_is_not_ready_and_says_when_to_come_back() -> None:
    async def run() -> None:
        async with MemoryQueue() as queue, gateway_client(queue) as client:
            assert (await client.get("/health")).status_code == 200
            ready = await client.get("/ready")
            assert ready.status_code == 503
            assert ready.json() == {"status": "no teacher is connected to the queue"}
            assert (await client.get("/v1/teachers")).json() == {"teachers": []}
            refused = await client.post("/v1/jobs", json=RAW)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "NO_TEACHER"

    asyncio.run(run())


def test_every_answer_is_protected_and_has_a_request_id() -> None:
    async def use(client: httpx.AsyncClient) -> None:
        for path in ("/health", "/docs", "/", "/nowhere", "/v1/jobs/x"):
            answer = await client.get(path, headers={"Origin": "https://elsewhere.example"})
            policy = answer.headers["content-security-policy"]
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert "set-cookie" not in answer.headers
            assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
        given = await client.get("/nowhere", headers={"X-Request-Id": "run-1/step:2"})
        assert given.headers["x-request-id"] == given.json()["request_id"] == "run-1/step:2"
        for bad in ("a b", "<script>", "x" * 129, "é".encode()):
            answer = await client.get("/nowhere", headers={"X-Request-Id": bad})
            assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])

    with_gateway(use)


def test_what_is_no_request_for_it() -> None:
    async def use(client: httpx.AsyncClient) -> None:
        for answer, status, code in (
            (await client.get("/nowhere"), 404, "NOT_FOUND"),
            (await client.get("/v1/distill/score"), 405, "METHOD_NOT_ALLOWED"),
            (await client.post("/v1/jobs", content=b"a=b"), 415, "UNSUPPORTED_MEDIA_TYPE"),
            (
                await client.post("/v1/jobs", data={"a": "b"}),
                *(415, "UNSUPPORTED_MEDIA_TYPE"),
            ),
            (await client.post("/v1/jobs", content=b"{", headers=JSON), 400, "INVALID_JSON"),
            (await client.post("/v1/jobs", content=b"", headers=JSON), 422, "INVALID_REQUEST"),
            (await client.post("/v1/jobs", content=b"[]", headers=JSON), 422, "INVALID_REQUEST"),
            (
                await client.post(
                    "/v1/jobs", content=b'{"priority": 1e999, "pairs": []}', headers=JSON
                ),
                *(422, "INVALID_REQUEST"),
            ),
        ):
            body = answer.json()
            assert (answer.status_code, body["error"]["code"]) == (status, code)
            assert set(body["error"]) == {"message", "type", "param", "code"}

    with_gateway(use)


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("jobs", {"responses": [[-1] * 1000]}, "responses.0.0"),
        ("jobs", {"contexts": [[1]] * 9 + [[]] * 90}, "contexts.9"),
        ("jobs", {"pairs": [[0]] * 1000}, "pairs.0"),
        ("jobs", {"pairs": [["a"] * 1000]}, "pairs.0.0"),
        ("distill/score", {"responses": [1] * 100}, "responses.0"),
        ("distill/score", {"wrong_hints": [1] * 50}, "wrong_hints.0"),
        (
            "distill/score",
            {"responses": [{"text": "a", "student_log_probs": [None] * 1000}]},
            "responses.0.student_log_probs.0",
        ),
    ],
)
def test_the_first_of_many_wrong_entries_is_the_only_error(
    path: str, change: dict[str, Any], param: str
) -> None:
    body = {**(RAW if path == "jobs" else EXAMPLE), **change}

    async def use(client: httpx.AsyncClient) -> None:
        answer = await client.post(f"/v1/{path}", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (422, param)
        assert "more)" not in error["message"]

    with_gateway(use)


def test_a_body_that_is_too_large_is_refused_announced_or_not() -> None:
    async def use(client: httpx.AsyncClient) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b" " * 1000

        for content in (b" " * 3000, chunks()):
            answer = await client.post("/v1/jobs", content=content, headers=JSON)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "BODY_TOO_LARGE"
        assert (await client.post("/v1/jobs", json=RAW)).status_code == 202

    with_gateway(use, limits=Limits(body_bytes=2000))


def test_other_sites_names_for_loopback_are_refused() -> None:
    async def use(client: httpx.AsyncClient) -> None:
        port = client.base_url.port
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.nip.io", ""):
            answer = await client.get("/health", headers={"Host": host})
            assert answer.status_code in (400, 421)  # h11 refuses an empty one by itself
        for host in ("localhost", f"LOCALHOST:{port}", f"[::1]:{port}", f"127.0.0.1:{port}"):
            assert (await client.get("/health", headers={"Host": host})).status_code == 200

    with_gateway(use)


def test_requests_beyond_the_bound_are_told_to_come_back(tokenizer: Tokenizer) -> None:
    async def run() -> None:
        async with queue_with_teacher(tokenizer) as queue:
            options = {"tokenizer": tokenizer, "limits": Limits(requests=1)}
            async with gateway_client(queue, **options) as client:
                waiting = asyncio.create_task(client.post("/v1/distill/score", json=EXAMPLE))
                await until(queue.stats)
                busy = await client.get("/v1/runs")
                assert busy.status_code == 503
                assert busy.json()["error"]["code"] == "BUSY"
                assert busy.headers["retry-after"] == "1"
                assert (await client.get("/health")).status_code == 200
                waiting.cancel()

    asyncio.run(run())


def test_one_caller_cannot_take_the_slots_of_all(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = {name: new_token() for name in ("greedy", "other")}
    runs = {name: Grant(tokens={digest: now()}) for name, (_, digest) in tokens.items()}
    file = tmp_path / "tokens.json"
    write_table(file, TokenTable(runs=runs))
    security = ServerSecurity(authentication=Authentication(TokenFile(file)))

    def bearer(token: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    async def run() -> None:
        options = {"tokenizer": tokenizer, "limits": Limits(requests=4, caller_requests=2)}
        async with (
            queue_with_teacher(tokenizer) as queue,
            gateway_client(queue, security=security, **options) as client,
        ):
            greedy, other = (bearer(token) for token, _ in tokens.values())
            body = {**EXAMPLE, "run": "greedy"}
            waiting = [
                asyncio.create_task(client.post("/v1/distill/score", json=body, headers=greedy))
                for _ in range(2)
            ]

            async def both_wait() -> bool:
                return sum(run.queued for run in await queue.stats()) == 2

            await until(both_wait)
            refused = await client.get("/v1/teachers", headers=greedy)
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "CALLER_BUSY"
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/health", headers=greedy)).status_code == 200
            assert (await client.get("/v1/teachers", headers=other)).status_code == 200
            for task in waiting:
                task.cancel()

            async def room_again() -> bool:
                answer = await client.get("/v1/teachers", headers=greedy)
                return answer.status_code == 200

            await until(room_again)

    asyncio.run(run())


def test_invented_tokens_make_no_new_caller(tokenizer: Tokenizer) -> None:
    async def run() -> None:
        options = {"tokenizer": tokenizer, "limits": Limits(caller_requests=1)}
        async with (
            queue_with_teacher(tokenizer) as queue,
            gateway_client(queue, **options) as client,
        ):
            one, two = ({"Authorization": f"Bearer invented-{number}"} for number in range(2))
            call = client.post("/v1/distill/score", json=EXAMPLE, headers=one)
            waiting = asyncio.create_task(call)
            await until(queue.stats)
            answer = await client.get("/v1/teachers", headers=two)
            assert answer.json()["error"]["code"] == "CALLER_BUSY"
            waiting.cancel()

    asyncio.run(run())


def test_an_error_does_not_repeat_a_huge_name() -> None:
    async def use(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/jobs", json={**RAW, "x" * 100_000: 1})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "INVALID_REQUEST")
        assert error["param"] == f"{'x' * 200}… (99800 more characters)"
        assert len(answer.content) < 1000
        assert error["message"].endswith("Extra inputs are not permitted")

    with_gateway(use)


def test_a_request_whose_time_is_over_ends_with_504(tokenizer: Tokenizer) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        body = {**EXAMPLE, "timeout_seconds": 0.1}
        answer = await client.post("/v1/distill/score", json=body)
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "DEADLINE_EXCEEDED"
        lines = await client.post(
            "/v1/distill/score", json=body, headers={"Accept": "application/x-ndjson"}
        )
        assert [next(iter(json.loads(line))) for line in lines.text.splitlines()] == [
            *("head", "error", "end")
        ]

    with_gateway(use, tokenizer=tokenizer)


def test_a_client_that_goes_leaves_its_job_and_nobody_waiting(tokenizer: Tokenizer) -> None:
    async def waiting() -> bool:
        return any("Submissions._outcome" in repr(task) for task in asyncio.all_tasks())

    async def gone() -> bool:
        return not await waiting()

    async def run() -> None:
        async with (
            queue_with_teacher(tokenizer) as queue,
            gateway_client(queue, tokenizer=tokenizer) as client,
        ):
            for headers in ({}, {"Accept": "application/x-ndjson"}):
                call = asyncio.create_task(
                    client.post("/v1/distill/score", json=EXAMPLE, headers=headers)
                )
                await until(waiting)
                call.cancel()
                await until(gone)
            (stats,) = await queue.stats()
            assert stats.queued == 2

    asyncio.run(run())


def test_the_drain_ends_waiting_and_keeps_the_job(tokenizer: Tokenizer) -> None:
    async def run() -> None:
        async with queue_with_teacher(tokenizer) as queue, httpx.AsyncClient() as client:
            async with serve_gateway(queue, "127.0.0.1:0", tokenizer=tokenizer) as url:
                call = asyncio.create_task(client.post(f"{url}/v1/distill/score", json=EXAMPLE))
                await until(queue.stats)
            answer = await call
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "DRAINING"
            (stats,) = await queue.stats()
            assert stats.queued == 1

    asyncio.run(run())


def test_over_tls_a_client_speaks_to_the_authority_s_server_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("gateway")
    security = ServerSecurity(tls=ServerTls(pair.cert, pair.key, authority.file))
    mine = authority.issue("client")

    def context(*, certificate: bool) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(authority.file))
        if certificate:
            made.load_cert_chain(mine.cert, mine.key)
        return made

    async def run() -> None:
        async with (
            MemoryQueue() as queue,
            serve_gateway(queue, "127.0.0.1:0", security) as url,
        ):
            assert url.startswith("https://")
            async with httpx.AsyncClient(verify=context(certificate=True)) as client:
                assert (await client.get(f"{url}/health")).status_code == 200
            async with httpx.AsyncClient(verify=context(certificate=False)) as client:
                with pytest.raises(httpx.TransportError):
                    await client.get(f"{url}/health")
            async with httpx.AsyncClient() as client:
                with pytest.raises(httpx.ConnectError, match="certificate"):
                    await client.get(f"{url}/health")

    asyncio.run(run())


def test_addresses_that_it_does_not_listen_on() -> None:
    async def serve(listen: str) -> None:
        async with MemoryQueue() as queue, serve_gateway(queue, listen):
            raise AssertionError("it serves")

    for listen, said in (
        ("0.0.0.0:0", "would carry plaintext"),
        ("unix:///x.sock", "no unix socket"),
        ("8080", "is no address"),
    ):
        with pytest.raises(InputError, match=rf"--http-listen.*{said}"):
            asyncio.run(serve(listen))
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(InputError, match=r"--http-listen .* cannot be used"),
    ):
        asyncio.run(serve(f"127.0.0.1:{taken.getsockname()[1]}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gateway"], "services run gateway without --redis"),
        (["gateway", "intake"], "needs the dispatcher together with"),
        (
            ["gateway", "dispatcher", "--tokenizer", "/absent"],
            "--tokenizer /absent: no such folder",
        ),
        (["gateway", "dispatcher", "--runs-dir", "/absent"], "--runs-dir /absent"),
        (["gateway", "dispatcher", "--http-listen", "0.0.0.0:0"], "--insecure"),
    ],
)
def test_the_command_line_names_what_it_cannot_use(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = ["--teachers", "127.0.0.1:1", "--http-listen", "127.0.0.1:0"]
    assert main(["services", "run", *shared, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_whole_in_one_process(
    byte_level_model: Path, byte_level_teacher: str, tmp_path: Path
) -> None:
    """`services run` without names: intake, dispatcher and gateway, as the help shows it."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "deploy.cli", "services", "run"]
    command += ["--listen", f"unix://{tmp_path}/intake.sock", "--teachers", byte_level_teacher]
    command += ["--http-listen", "127.0.0.1:0", "--tokenizer", str(byte_level_model)]
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        wait_until(lambda: re.search(r"gateway on (http://\S+)", log.read_text()))
        found = re.search(r"gateway on (http://[0-9.:]+)", log.read_text())
        assert found is not None

        def ready() -> bool:
            try:
                with urlopen(f"{found[1]}/ready") as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        wait_until(ready)
        answer = httpx.post(f"{found[1]}/v1/distill/score", json=EXAMPLE, timeout=240)
        assert answer.status_code == 200
        tokens = answer.json()["responses"][0]["tokens"]
        assert "".join(tokens["text"]) == "2+3 = 5"
        assert None not in tokens["e_ctr"]
        wait_until(
            lambda: "counterhint_services_ready 1.0" in httpx.get(f"{found[1]}/metrics").text
        )
        jobs = httpx.post(f"{found[1]}/v1/jobs/none", json={})
        assert jobs.status_code == 405
        assert httpx.get(f"{found[1]}/v1/jobs/none").status_code == 404
        figures = httpx.get(f"{found[1]}/metrics").text
        assert 'requests_total{route="/v1/jobs/{job_id:path}",status="404"} 1.0' in figures
        assert "/v1/jobs/none" not in figures
    finally:
        process.terminate()
        assert process.wait(240) == 0
