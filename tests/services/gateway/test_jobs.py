"""`/v1/jobs` on both queues."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from counterhint.authentication import Authentication
from counterhint.server_security import ServerSecurity
from counterhint.tokens import Grant, TokenFile, TokenTable, new_token, now, write_table
from services.gateway.job_models import JobReply
from services.gateway.tokenizer import Tokenizer
from services.queue.base import JobQueue
from services.queue.records import QueueSettings
from tests.services.conftest import OpenQueue
from tests.services.dispatching import dispatching, enqueue
from tests.services.gateway.running import (
    EXAMPLE,
    RAW,
    gateway_client,
    scripted,
    teacher_known,
    with_gateway,
)
from tests.services.scripted_teacher import make_job, serving

Test = Callable[[httpx.AsyncClient, JobQueue], Awaitable[None]]


@pytest.fixture
def on_queue(open_queue: OpenQueue, tokenizer: Tokenizer) -> Any:
    """Runs a test against a gateway whose jobs stay queued, unless the test dispatches them."""

    def run(test: Test, settings: QueueSettings | None = None, **options: Any) -> None:
        async def scenario() -> None:
            async with open_queue(settings or QueueSettings()) as queue:
                await queue.publish_teacher(scripted(tokenizer).info, 600.0)
                async with gateway_client(queue, tokenizer=tokenizer, **options) as client:
                    await test(client, queue)

        asyncio.run(scenario())

    return run


async def finished(client: httpx.AsyncClient, location: str) -> dict[str, Any]:
    """The job once it has ended."""
    while True:
        answer = await client.get(location)
        assert answer.status_code == 200
        job: dict[str, Any] = answer.json()
        JobReply.model_validate(job)
        if job["state"] not in ("queued", "claimed"):
            return job
        await asyncio.sleep(0.02)


def test_jobs_are_scored_later_and_their_results_can_be_asked_for(
    on_queue: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    async def test(client: httpx.AsyncClient, queue: JobQueue) -> None:
        answers = [
            await client.post("/v1/jobs", json=body)
            for body in (EXAMPLE, {**RAW, "outputs": {"sampled": True}})
        ]
        for answer in answers:
            assert answer.status_code == 202
            job = answer.json()
            assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
            assert (job["state"], job["result"], job["run"]) == ("queued", None, "http")
        teacher, address = scripted(tokenizer), f"unix://{tmp_path}/teacher.sock"
        async with serving(teacher, address), dispatching(queue, [address]):
            score, raw = [await finished(client, one.headers["location"]) for one in answers]
            await teacher_known(queue)
            now_ = await client.post("/v1/distill/score", json=EXAMPLE)
        assert (score["kind"], raw["kind"]) == ("score", "raw")
        assert score["result"]["responses"] == now_.json()["responses"]
        assert score["result"]["id"] == score["id"]
        assert raw["result"]["pairs"] == [
            {"context": 0, "response": 0, "log_probs": [-0.03, -0.04], "missing": None},
            {"context": 1, "response": 0, "log_probs": [-0.03, -0.04], "missing": None},
        ]
        assert raw["error"] is None

    on_queue(test)


def test_the_same_key_and_body_is_the_same_job(on_queue: Any) -> None:
    async def test(client: httpx.AsyncClient, queue: JobQueue) -> None:
        key = {"Idempotency-Key": "step-12/problem-3"}
        first, again = [await client.post("/v1/jobs", json=EXAMPLE, headers=key) for _ in range(2)]
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        (run,) = await queue.stats()
        assert run.queued == 1
        for other in ({**EXAMPLE, "problem": "Another"}, {**EXAMPLE, "gate": {"tau": 1.0}}):
            refused = await client.post("/v1/jobs", json=other, headers=key)
            assert refused.status_code == 409
            assert refused.json()["error"]["code"] == "JOB_CONFLICT"
        other_key = await client.post(
            "/v1/jobs", json=EXAMPLE, headers={"Idempotency-Key": "another"}
        )
        assert other_key.json()["id"] != first.json()["id"]
        long = await client.post("/v1/jobs", json=EXAMPLE, headers={"Idempotency-Key": "a" * 201})
        assert long.status_code == 422

    on_queue(test)


def test_further_ids_are_scored_at_each_position(byte_level_teacher: str) -> None:
    body = {
        "contexts": [[1, 2], [5]],
        "responses": [[3, 4], [6]],
        "pairs": [[0, 0], [1, 1]],
        "outputs": {"sampled": True},
        "token_ids": [[[3, 9], [4, 9]], [[6, 9]]],
    }

    async def use(client: httpx.AsyncClient) -> None:
        location = (await client.post("/v1/jobs", json=body)).headers["location"]
        for pair in (await finished(client, location))["result"]["pairs"]:
            first, second = zip(*pair["given"], strict=True)
            assert list(first) == pair["log_probs"]
            assert set(first).isdisjoint(second)
        alone = {**body, "outputs": {"sampled": False}}
        location = (await client.post("/v1/jobs", json=alone)).headers["location"]
        (pair, _) = (await finished(client, location))["result"]["pairs"]
        assert (len(pair["given"]), "log_probs" in pair) == (2, False)
        for wrong, said in (
            ([[[3], [4]]], "has the rows [2], but the responses have [2, 1] tokens"),
            ([[[3], [4, 5]], [[6]]], "differ in length"),
            (None, "ask for something"),
        ):
            refused = await client.post("/v1/jobs", json={**alone, "token_ids": wrong})
            assert refused.status_code == 422
            assert said in refused.json()["error"]["message"]

    with_gateway(use, [byte_level_teacher])


def test_a_job_can_be_cancelled_and_says_so(on_queue: Any) -> None:
    async def test(client: httpx.AsyncClient, queue: JobQueue) -> None:
        location = (await client.post("/v1/jobs", json=RAW)).headers["location"]
        for _ in range(2):
            cancelled = await client.delete(location)
            assert cancelled.status_code == 200
            assert cancelled.json()["state"] == "cancelled"
        job = (await client.get(location)).json()
        assert (job["result"], job["error"]["code"]) == (None, "CANCELLED")
        for method in ("GET", "DELETE"):
            unknown = await client.request(method, "/v1/jobs/none/such")
            assert unknown.status_code == 404
            assert unknown.json()["error"]["code"] == "JOB_NOT_FOUND"

    on_queue(test)


def test_a_failed_job_has_its_reason_and_one_of_grpc_has_no_result(
    on_queue: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    async def test(client: httpx.AsyncClient, queue: JobQueue) -> None:
        teacher, address = scripted(tokenizer), f"unix://{tmp_path}/teacher.sock"
        await enqueue(queue, make_job("nan"), make_job("a"))
        async with serving(teacher, address), dispatching(queue, [address]):
            failed = await finished(client, "/v1/jobs/nan")
            done = await finished(client, "/v1/jobs/a")
        assert (failed["state"], failed["error"]["code"]) == ("failed", "NOT_FINITE")
        assert (done["state"], done["kind"], done["result"]) == ("done", None, None)

    on_queue(test)


def test_a_full_queue_says_when_to_come_back(on_queue: Any) -> None:
    async def test(client: httpx.AsyncClient, queue: JobQueue) -> None:
        assert (await client.post("/v1/jobs", json=RAW)).status_code == 202
        for path in ("/v1/jobs", "/v1/distill/score"):
            full = await client.post(path, json=EXAMPLE)
            assert full.status_code == 429
            assert full.json()["error"]["code"] == "QUEUE_FULL"
            assert int(full.headers["retry-after"]) >= 1

    on_queue(test, QueueSettings(max_jobs=1))


def test_a_run_s_token_reaches_its_own_jobs_alone(on_queue: Any, tmp_path: Path) -> None:
    (maths, logic, operator), digests = zip(*(new_token() for _ in range(3)), strict=True)
    write_table(
        tmp_path / "tokens.json",
        TokenTable(
            runs={
                "maths": Grant(tokens={digests[0]: now()}),
                "logic": Grant(tokens={digests[1]: now()}, max_jobs=0),
            },
            operators={"ops": {digests[2]: now()}},
        ),
    )
    security = ServerSecurity(authentication=Authentication(TokenFile(tmp_path / "tokens.json")))

    async def test(client: httpx.AsyncClient, queue: JobQueue) -> None:
        def by(token: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {token}"}

        async def status(method: str, path: str, token: str, **content: Any) -> int:
            return (await client.request(method, path, headers=by(token), **content)).status_code

        answer = await client.post("/v1/jobs", json=RAW, headers=by(maths))
        assert answer.json()["run"] == "maths"
        location = answer.headers["location"]
        assert location.startswith("/v1/jobs/maths/")
        assert await status("GET", location, maths) == 200
        assert await status("GET", location, operator) == 200
        assert await status("GET", location, logic) == 403
        assert await status("DELETE", location, logic) == 403
        other_run = {**RAW, "run": "logic"}
        assert await status("POST", "/v1/jobs", maths, json=other_run) == 403
        assert await status("POST", "/v1/jobs", logic, json=RAW) == 429  # its quota
        assert await status("GET", "/v1/runs/maths", logic) == 403
        assert await status("GET", "/v1/runs/maths", maths) == 200
        assert await status("GET", "/v1/runs/absent", operator) == 404
        seen = {}
        for token in (maths, logic, operator):
            listed = await client.get("/v1/runs", headers=by(token))
            seen[token] = {run["run_id"] for run in listed.json()}
        assert seen[maths] == {"maths"}
        assert "maths" not in seen[logic]
        assert "maths" in seen[operator]
        assert await status("GET", "/metrics", maths) == 403
        assert await status("GET", "/metrics", operator) == 200
        for path in ("/v1/jobs/x", "/v1/runs", "/v1/teachers", "/v1/models", "/metrics"):
            for headers in ({}, by("chint_wrong"), {"Authorization": f"Basic {maths}"}):
                refused = await client.get(path, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/jobs", "/v1/distill/score", "/v1/completions"):
            refused = await client.post(path, content=b"{")  # a stranger's body is not looked at
            assert refused.status_code == 401
        for path in ("/health", "/ready", "/docs", "/openapi.json", "/"):
            assert (await client.get(path)).status_code == 200

    on_queue(test, security=security)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": []}, "pairs"),
        ({"pairs": [[0, 1]]}, "pairs.0 is [0, 1]"),
        ({"pairs": [[0, 0, 0]]}, "pairs.0"),
        ({"contexts": [[]]}, "contexts.0"),
        ({"outputs": {"sampled": False}}, "ask for something"),
        ({"responses": [[2**31]]}, "responses.0.0"),
        ({"responses": ["text"]}, "responses.0"),
    ],
)
def test_raw_jobs_that_make_no_sense(
    on_queue: Any, open_queue: OpenQueue, change: dict[str, Any], said: str
) -> None:
    async def test(client: httpx.AsyncClient, queue: JobQueue) -> None:
        refused = await client.post("/v1/jobs", json={**RAW, **change})
        assert refused.status_code == 422
        assert said in refused.json()["error"]["message"]
        assert await queue.stats() == []

    on_queue(test)
