"""Metrics and probes, fetched over HTTP."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from counterhint.command_line import run_command
from counterhint.errors import InputError
from counterhint.http_probes import serve_probes
from teacher_server.cli import Serve
from tests.processes import wait_until
from tests.teacher_server.broken_child import BrokenTeacher, reasons

Start = Callable[..., BrokenTeacher]


def url_of(teacher: BrokenTeacher) -> str:
    told = re.search(r"metrics on (\S+)/metrics", teacher.errors())
    assert told is not None
    return told[1]


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=240) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(url: str) -> dict[str, float]:
    """Our samples, by name and label values."""
    status, text = fetch(f"{url}/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("counterhint_teacher_"):
                name = sample.name.removeprefix("counterhint_teacher_")
                found[" ".join([name, *sample.labels.values()])] = sample.value
    return found


def test_a_teacher_tells_what_it_has_done(start_broken: Start):
    teacher = start_broken('metrics_listen="127.0.0.1:0"')
    url = url_of(teacher)
    before = samples(url)
    assert before["ready"] == 1
    assert before["info zero 1 zero weights"] == 1
    for id in ("a", "b", "crash", "nan"):
        asyncio.run(reasons(teacher, id, until_lost=False))
    after = samples(url)
    ends = {name: value for name, value in after.items() if name.startswith("jobs_total")}
    assert ends == {"jobs_total OK": 2, "jobs_total ENGINE_FAILED": 1, "jobs_total NOT_FINITE": 1}
    assert (after["tokens_naive_total"], after["tokens_computed_total"]) == (52, 2)
    assert after["engine_seconds_count"] == after["wait_seconds_count"] == 2
    assert after["engine_seconds_sum"] == 2
    assert after["engine_progress"] >= before["engine_progress"] + 3
    for gauge in ("tokens_waiting", "tokens_running", "held_bytes", "weights_loaded"):
        assert after[gauge] == 0
    assert after["second_requests_total"] == 0


def test_a_teacher_that_drains_is_healthy_but_not_ready(start_broken: Start):
    teacher = start_broken('metrics_listen="127.0.0.1:0"', "drain_seconds=3600")
    url = url_of(teacher)
    for path in ("/health", "/ready"):
        status, text = fetch(url + path)
        assert (status, json.loads(text)) == (200, {"status": "ok"})

    async def run() -> None:
        stuck = asyncio.create_task(reasons(teacher, "hang", until_lost=True))
        await asyncio.to_thread(wait_until, lambda: samples(url)["tokens_running"])
        teacher.process.terminate()
        await asyncio.to_thread(wait_until, lambda: fetch(f"{url}/ready")[0] == 503)
        assert fetch(f"{url}/health")[0] == 200
        assert samples(url)["ready"] == 0
        assert samples(url)["held_bytes"] == 55  # 11 numbers, and whether they are valid
        teacher.process.kill()
        await stuck

    asyncio.run(run())


def test_what_is_wrong_is_told():
    with serve_probes("localhost:0", lambda: "the engine hangs", lambda: "") as url:
        assert fetch(f"{url}/health") == (503, '{"status": "the engine hangs"}')
        assert fetch(f"{url}/ready?verbose") == (200, '{"status": "ok"}')
        status, text = fetch(f"{url}/")
        assert status == 404
        assert "/metrics, /health, /ready" in text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("0.0.0.0:9091", "--metrics-listen 0.0.0.0:9091 would carry plaintext"),
        ("unix:///tmp/m.sock", "--metrics-listen unix:///tmp/m.sock: HTTP has no unix socket"),
        ("9091", "--metrics-listen 9091 is no address"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_before_loading(capsys, address, message):
    arguments = ["--model", "/no/such/folder", "--listen", "127.0.0.1:0"]
    arguments += ["--metrics-listen", address]
    assert run_command(Serve, "counterhint teacher serve", arguments) == 2
    assert message in capsys.readouterr().err


def test_a_host_that_nobody_knows_is_named() -> None:
    with (
        pytest.raises(InputError, match=r"--metrics-listen no-such-host\.invalid:1 cannot be"),
        serve_probes("no-such-host.invalid:1", lambda: "", lambda: ""),
    ):
        pass
