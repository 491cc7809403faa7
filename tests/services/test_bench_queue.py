"""`counterhint bench queue`: that it measures either queue, and leaves nothing behind."""

import json

import pytest
import redis

from deploy.cli import main
from deploy.local.redis import LocalRedis

SMALL = ["--jobs", "40", "--runs", "4", "--workers", "3", "--payload-bytes", "100"]


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_it_counts_jobs_and_times_claims(
    kind: str, redis_server: LocalRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--redis", redis_server.url] if kind == "redis" else []
    assert main(["bench", "queue", *SMALL, *where, "--json"]) == 0
    with redis.Redis.from_url(redis_server.url) as client:
        assert list(client.scan_iter("{bench-*")) == []
    figures = json.loads(capsys.readouterr().out)
    assert (figures["queue"], figures["jobs"], figures["workers"]) == (kind, 40, 3)
    assert figures["jobs_per_second"] > 0
    assert [claims["runs"] for claims in figures["claims"]] == [10, 100, 1000]
    assert all(
        0 < claims["median_seconds"] <= claims["p95_seconds"] for claims in figures["claims"]
    )


def test_the_table_names_the_queue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "queue", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("memory: ")
    assert "a claim among 1000 runs" in shown


@pytest.mark.parametrize("url", ["nonsense", "unix:///nowhere/redis.sock"])
def test_a_redis_that_cannot_be_reached_is_named(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "queue", *SMALL, "--redis", url]) == 2
    assert f"--redis {url}" in capsys.readouterr().err
