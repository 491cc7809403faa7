"""What the gateway tells of runs: folders as the trainer writes them, a queue that knows some."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from counterhint.authentication import Authentication
from counterhint.tokens import Grant, TokenFile, TokenTable, new_token, now, write_table
from services.gateway.app import make_app
from services.gateway.run_folders import RunFolders
from services.gateway.state import Gateway
from services.queue.memory import MemoryQueue
from services.queue.records import QueuedJob, QueueSettings
from services.submission import Submissions

ROLLOUT: dict[str, Any] = {
    "step": 10,
    "problem_id": "p1",
    "problem": "3 + 4?",
    "answer": "7",
    "response_answer": "8",
    "correct": False,
    "advantage": -0.5,
    "tokens": ["so", " é", "8"],
    "token_ids": [1, 2, 3],
    "token_classes": ["style", "other", "task"],
    "student": [-0.1, -0.2, None],
    "correct_hint": [-0.5, -0.6, -0.7],
    "wrong_hints": [[-0.9, -0.8, -0.7], [-0.1, -0.2, -0.3]],
    "e_c": [-0.4, -0.4, None],
    "e_ctr": [0.1, 0.2, None],
    "selected": [True, True, False],
    "modulated": [-0.1, -0.2, -0.5],
    "hint_texts": {"correct": "it is 7", "wrong": ["it is 8", "it is 9"]},
}


def write_run(root: Path, name: str, steps: int = 12, **files: Any) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    rows = [{"step": step, "rollout/reward": step / 100} for step in range(steps)]
    rows[0]["eval/accuracy"] = 0.25
    for file, lines in {"metrics.jsonl": rows, "rollouts.jsonl": [ROLLOUT]}.items():
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in lines))
    recipe = {"method": {"kind": "rlcsd"}, "steps": 80}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "run.json").write_text(json.dumps({"run_id": f"{name}-0a1b2c3d"}))
    return folder


def ask(
    root: Path | None,
    use: Callable[[httpx.AsyncClient], Awaitable[None]],
    *,
    tokens: Path | None = None,
) -> None:
    """Calls a gateway whose queue holds a job of the run `maths`, and one of another."""

    async def run() -> None:
        async with MemoryQueue(QueueSettings()) as queue:
            await queue.enqueue(QueuedJob("a", "maths-0a1b2c3d", 30, b"payload"))
            await queue.enqueue(QueuedJob("b", "other", 10, b"payload"))
            await queue.claim("worker")
            gateway = Gateway(
                queue,
                Submissions(queue),
                authentication=Authentication(None if tokens is None else TokenFile(tokens)),
                runs=None if root is None else RunFolders(root),
            )
            transport = httpx.ASGITransport(make_app(gateway))
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                await use(client)

    asyncio.run(run())


def test_runs_are_listed_with_their_latest_figures(tmp_path: Path) -> None:
    write_run(tmp_path, "maths")
    finished = write_run(tmp_path, "logic", steps=3)
    (finished / "summary.json").write_text("{}")
    (tmp_path / "no-run").mkdir()

    async def use(client: httpx.AsyncClient) -> None:
        runs = {run["run"]: run for run in (await client.get("/v1/training-runs")).json()}
        assert set(runs) == {"maths", "logic"}
        maths = runs["maths"]
        assert (maths["run_id"], maths["method"]) == ("maths-0a1b2c3d", "rlcsd")
        assert (maths["step"], maths["steps"], maths["finished"]) == (11, 80, False)
        assert maths["figures"] == {"rollout/reward": 0.11, "eval/accuracy": 0.25}
        assert 0 <= maths["idle_seconds"] < 60
        assert (runs["logic"]["step"], runs["logic"]["finished"]) == (2, True)

    ask(tmp_path, use)


@pytest.mark.parametrize("name", ["maths", "maths-0a1b2c3d"])
def test_a_run_s_figures_come_from_its_folder_and_from_the_queue(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path, "maths")

    async def use(client: httpx.AsyncClient) -> None:
        first = (await client.get(f"/v1/training-runs/{name}")).json()
        assert [row["step"] for row in first["rows"]] == list(range(12))
        assert first["queue"]["claimed"] == 1
        assert (first["queue"]["tokens"], first["tokens_of_all_runs"]) == (30, 30)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 12, "rollout/reward": 1}\n{"step": 13, "rollout')
        later = (await client.get(f"/v1/training-runs/{name}?after_step=11")).json()
        assert later["rows"] == [{"step": 12, "rollout/reward": 1}]
        assert later["step"] == 12

    ask(tmp_path, use)


def test_figures_from_long_ago_are_listed(tmp_path: Path) -> None:
    write_run(tmp_path, "maths", steps=200)  # with the one evaluation before the first step

    async def use(client: httpx.AsyncClient) -> None:
        (run,) = (await client.get("/v1/training-runs")).json()
        assert run["figures"] == {"rollout/reward": 1.99, "eval/accuracy": 0.25}

    ask(tmp_path, use)


def test_rollouts_have_the_shape_of_a_score_reply(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "maths")
    plain = {key: ROLLOUT[key] for key in ("problem", "tokens", "token_ids", "token_classes")}
    plain |= {"step": 20, "tokens": ["\N{REPLACEMENT CHARACTER}", "x", "y"]}
    with (folder / "rollouts.jsonl").open("a") as file:
        file.write(json.dumps(plain) + "\n")

    async def use(client: httpx.AsyncClient) -> None:
        reply = (await client.get("/v1/runs/maths/rollouts")).json()
        assert [context["name"] for context in reply["contexts"]] == [
            "correct",
            "wrong 1",
            "wrong 2",
        ]
        first, second = reply["responses"]
        assert (first["step"], first["correct"], first["response_answer"]) == (10, False, "8")
        assert first["text"] == "so é8"
        assert first["tokens"]["bytes"] == [[0, 2], [2, 5], [5, 6]]
        assert first["tokens"]["log_probs"]["wrong 2"] == [-0.1, -0.2, -0.3]
        assert first["tokens"]["e_ctr"] == [0.1, 0.2, None]
        assert first["hints"] == {"correct": "it is 7", "wrong 1": "it is 8", "wrong 2": "it is 9"}
        assert (first["missing"], second["missing"][0]["reason"]) == ([], "NOT_SCORED")
        assert second["tokens"]["bytes"] == [None, None, [4, 5]]
        assert second["tokens"]["e_ctr"] is None
        only = (await client.get("/v1/runs/maths/rollouts?last_steps=1")).json()
        assert [response["step"] for response in only["responses"]] == [20]

    ask(tmp_path, use)


@pytest.mark.parametrize("path", ["/v1/training-runs/%2e%2e", "/v1/runs/..%2fmaths/rollouts"])
def test_nothing_outside_the_folder_is_shown(tmp_path: Path, path: str) -> None:
    write_run(tmp_path, "maths")
    (tmp_path / "maths" / "inside").mkdir()

    async def use(client: httpx.AsyncClient) -> None:
        answer = await client.get(path)
        assert answer.status_code == 404
        assert set(answer.json()) == {"error", "request_id"}

    ask(tmp_path / "maths", use)


def test_without_a_folder_there_are_no_runs(tmp_path: Path) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/training-runs")).json() == []
        answer = await client.get("/v1/training-runs/maths")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "RUN_NOT_FOUND")
        assert "--runs-dir" in answer.json()["error"]["message"]

    ask(None, use)


def test_a_run_s_token_shows_that_run_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "maths")
    write_run(tmp_path / "runs", "logic")
    tokens = tmp_path / "tokens.json"
    token, digest = new_token()
    write_table(tokens, TokenTable(runs={"maths": Grant(tokens={digest: now()})}))

    async def use(client: httpx.AsyncClient) -> None:
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await client.get("/v1/training-runs")).status_code == 401
        runs = (await client.get("/v1/training-runs", headers=bearer)).json()
        assert [run["run"] for run in runs] == ["maths"]
        for path in ("training-runs/logic", "runs/logic/rollouts"):
            assert (await client.get(f"/v1/{path}", headers=bearer)).status_code == 403
        assert (await client.get("/v1/runs/maths/rollouts", headers=bearer)).status_code == 200

    ask(tmp_path / "runs", use, tokens=tokens)


def test_where_tokens_are_asked_for_jobs_count_for_the_token_s_run(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "other-second")  # the queue knows the run `other`
    tokens = tmp_path / "tokens.json"
    mine, (near, near_digest), (operator, operator_digest) = (new_token() for _ in range(3))
    own = {"other": Grant(tokens={mine[1]: now()})}
    names = {**own, "other-second": Grant(tokens={near_digest: now()})}
    table = TokenTable(runs=names, operators={"tool": {operator_digest: now()}})
    write_table(tokens, table)

    async def use(client: httpx.AsyncClient) -> None:
        # The third token is of a run of that name, which the queue does not know.
        for token, known in ((mine[0], "other"), (operator, "other"), (near, None)):
            bearer = {"Authorization": f"Bearer {token}"}
            (listed,) = (await client.get("/v1/training-runs", headers=bearer)).json()
            run = (await client.get("/v1/training-runs/other-second", headers=bearer)).json()
            assert (listed["queue_run"], run["queue_run"]) == (known, known)
            assert (run["queue"] or {}).get("run_id") == known

    ask(tmp_path / "runs", use, tokens=tokens)


def test_a_run_of_a_like_name_is_another_where_no_tokens_are_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path, "other")  # the run `other-0a1b2c3d`

    async def use(client: httpx.AsyncClient) -> None:
        run = (await client.get("/v1/training-runs/other")).json()
        assert (run["queue_run"], run["queue"]) == (None, None)

    ask(tmp_path, use)
