"""Metrics and probes of a real `services run`, over HTTP."""

import asyncio
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from counterhint.authentication import Authentication
from counterhint.client import AsyncScoringClient
from counterhint.command_line import run_command
from counterhint.errors import EngineFailure, JobDeadLettered, Unauthenticated
from counterhint.tokens import TokenFile
from services.cli import Run
from services.metrics import MAX_RUNS, QueueFigures
from services.queue.records import RunStats
from tests.processes import wait_until
from tests.services.scripted_teacher import ScriptedTeacher, make_job, serving


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=240) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(url: str) -> dict[str, float]:
    status, text = fetch(f"{url}/metrics")
    assert status == 200
    return {
        " ".join([sample.name.removeprefix("counterhint_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("counterhint_")
    }


def test_services_tell_what_they_have_done(tmp_path: Path):
    teacher, intake = f"unix://{tmp_path}/teacher.sock", f"unix://{tmp_path}/intake.sock"
    arguments = ["--teachers", teacher, "--listen", intake, "--metrics-listen", "127.0.0.1:0"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "deploy.cli",
                "services",
                "run",
                "intake",
                "dispatcher",
                *arguments,
            ],
            stderr=file,
        )

    def told() -> re.Match[str] | None:
        return re.search(r"metrics on (\S+)/metrics", log.read_text())

    async def score(url: str) -> None:
        async with serving(ScriptedTeacher(), teacher):
            await asyncio.to_thread(wait_until, lambda: fetch(f"{url}/ready")[0] == 200)
            async with AsyncScoringClient(intake) as client:
                await client.score(make_job("a"))
                await client.score(make_job("b"))
                await client.score(make_job("busy"))
                with pytest.raises(EngineFailure):
                    await client.score(make_job("nan"))
                with pytest.raises(JobDeadLettered):
                    await client.score(make_job("broken"))
            await asyncio.to_thread(
                wait_until, lambda: samples(url).get("queue_ended_total run failed") == 1
            )
            await asyncio.to_thread(wait_until, lambda: samples(url).get("queue_jobs run dead"))
            found = samples(url)
        assert found["intake_answers_total OK"] == found["intake_answer_seconds_count"] == 3
        assert found["intake_wait_seconds_count"] == found["queue_ended_total run done"] == 3
        assert found["intake_answers_total NOT_FINITE"] == 1
        assert found["dispatcher_service_seconds_count"] == 3
        assert found["dispatcher_retries_total TEACHER_BUSY"] == 1
        assert found["dispatcher_retries_total ENGINE_FAILED"] == 2
        assert found["dispatcher_dead_letters_total ENGINE_FAILED"] == 1
        assert "dispatcher_failures_total ENGINE_FAILED" not in found
        assert found["dispatcher_lost_leases_total"] == found["queue_oldest_seconds run"] == 0
        assert found["dispatcher_failures_total NOT_FINITE"] == 1
        assert found[f"dispatcher_in_flight {teacher}"] == 0
        assert found["queue_tokens_naive_total run"] > found["queue_tokens_cached_total run"] == 0
        assert found["queue_jobs run queued"] == found["queue_jobs run claimed"] == 0
        assert found["queue_runs"] == found["services_ready"] == found["dispatcher_teachers"] == 1

    try:
        wait_until(told)
        match = told()
        assert match is not None
        assert fetch(f"{match[1]}/health") == (200, json.dumps({"status": "ok"}))
        assert fetch(f"{match[1]}/ready")[0] == 503
        asyncio.run(score(match[1]))
    finally:
        process.terminate()
        assert process.wait(240) == 0


def test_only_so_many_runs_have_series_those_with_work_first():
    figures = QueueFigures()
    figures.runs = [RunStats(f"{n}", tokens=n) for n in range(MAX_RUNS + 1)]
    figures.runs[0] = RunStats("0", queued=1)
    (sizes,) = [it for it in figures.collect() if it.name == "counterhint_queue_bytes"]
    shown = {sample.labels["run"] for sample in sizes.samples}
    assert len(shown) == MAX_RUNS
    assert "0" in shown
    assert "1" not in shown
    figures.runs = []
    assert not any("run" in sample.labels for it in figures.collect() for sample in it.samples)


def test_plain_text_stays_on_this_machine(capsys):
    arguments = ["--teachers", "127.0.0.1:1", "--metrics-listen", "0.0.0.0:9092"]
    assert run_command(Run, "counterhint services run", arguments) == 2
    assert "--metrics-listen 0.0.0.0:9092 would carry plaintext" in capsys.readouterr().err


def test_calls_without_a_known_token_are_counted(tmp_path: Path):
    tokens = tmp_path / "tokens.json"
    tokens.write_text("{}")
    authentication = Authentication(TokenFile(tokens))

    def refused(reason: str) -> float:
        labels = {"reason": reason}
        return REGISTRY.get_sample_value("counterhint_refused_calls_total", labels) or 0

    before = [refused("NO_TOKEN"), refused("UNKNOWN_TOKEN")]
    for headers in ([], [("authorization", "Bearer chint_x")], [("authorization", "Basic x")]):
        with pytest.raises(Unauthenticated):
            authentication.identify(headers)
    assert [refused("NO_TOKEN"), refused("UNKNOWN_TOKEN")] == [before[0] + 1, before[1] + 2]
