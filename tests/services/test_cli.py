"""The services' command lines: what they refuse, and what the queue commands print."""

import asyncio
import json
import re
import socket
from pathlib import Path

import pytest

from counterhint.errors import EngineFailure
from deploy.cli import main
from deploy.local.redis import LocalRedis
from services.queue.records import QueuedJob, QueueSettings
from services.queue.redis_streams import RedisQueue


@pytest.fixture
def redis_url(redis_server: LocalRedis) -> str:
    """A Redis whose queue holds a done, a dead and a queued job of run `first`."""

    async def fill() -> None:
        async with RedisQueue(redis_server.url, QueueSettings(max_attempts=1)) as queue:
            await queue._redis.flushdb()
            for name in ("done", "dead", "queued"):
                await queue.enqueue(QueuedJob(name, "first", 10, b"payload"))
            done, dead = await queue.claim("worker"), await queue.claim("worker")
            assert done is not None
            assert dead is not None
            await queue.complete(done, b"response")
            await queue.fail(dead, EngineFailure("no", reason="ENGINE_FAILED"), retryable=True)

    asyncio.run(fill())
    return redis_server.url


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["intake", "--listen", "127.0.0.1:0"], "services run intake without --redis"),
        (["dispatcher", "--teachers", "127.0.0.1:1"], "give --redis URL"),
        ([], "give --teachers host:port"),
        (["--teachers", "127.0.0.1:1", "--listen", "0.0.0.0:0"], "give --insecure"),
        (["--teachers", "127.0.0.1:1", "--listen", "nowhere"], "is no address"),
        (["gateways"], "'gateways'"),
        (["--redis", "unix:///nowhere/redis.sock", "--teachers", "127.0.0.1:1"], "start a Redis"),
        (["--redis", "nonsense", "--teachers", "127.0.0.1:1"], "--redis nonsense"),
        (["--teachers", "127.0.0.1:1", "--max-jobs", "0"], "--max-jobs"),
        (["--teachers", "127.0.0.1:1", "--imbalance", "-1"], "--imbalance"),
        (["--teachers", "127.0.0.1:1", "--max-part-tokens", "0"], "--max-part-tokens"),
    ],
)
def test_what_cannot_be_used_is_named_and_ends_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["services", "run", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert main(["services", "run", "--teachers", "127.0.0.1:1", "--listen", address]) == 2
    assert f"--listen {address} cannot be used" in capsys.readouterr().err


def test_ls_counts_each_run(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "ls", "--redis", redis_url, "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["run_id"], run["queued"], run["done"], run["dead"]) == ("first", 1, 1, 1)
    assert main(["queue", "ls", "--redis", redis_url]) == 0
    table = capsys.readouterr().out
    assert "cancelled" in table
    assert "first" in table


def test_show_tells_one_job_s_state(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "show", "dead", "--redis", redis_url, "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)
    assert (job["state"], job["reason"], job["failures"]) == ("dead", "ENGINE_FAILED", 1)
    assert main(["queue", "show", "nobody", "--redis", redis_url]) == 2
    assert "'nobody'" in capsys.readouterr().err


def test_dead_jobs_are_listed_and_retried(
    redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["queue", "dead", "--redis", redis_url, "--json"]) == 0
    assert [job["id"] for job in json.loads(capsys.readouterr().out)] == ["dead"]
    assert main(["queue", "retry", "dead", "--redis", redis_url]) == 0
    assert "queued again" in capsys.readouterr().out
    assert main(["queue", "retry", "dead", "--redis", redis_url]) == 1
    assert main(["queue", "dead", "--redis", redis_url, "--json"]) == 0
    assert '"dead"' not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "retry"])
def test_the_help_s_example_names_a_job_as_the_trainer_does(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["queue", command, "--help"])
    example = (
        rf"counterhint queue {command} [\w-]+-[0-9a-f]{{8}}/step-\d+/group-\d+/[0-9a-f]{{12}} "
    )
    assert re.search(example, capsys.readouterr().out)


def test_purge_removes_a_run_s_jobs(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "purge", "first", "--redis", redis_url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "first", "purged": 2}


def test_an_unreachable_redis_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue", "ls", "--redis", f"unix://{tmp_path}/none.sock"]) == 2
    assert "give the URL of one" in capsys.readouterr().err
