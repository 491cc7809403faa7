"""Logs, metrics and traces of a whole system at work: trainer, services on Redis, teacher."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.local.redis import LocalRedis
from tests.e2e.otlp_collector import Collector, Received, collecting
from tests.processes import wait_until
from tests.student_trainer.chain_student import write_chain_student

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
PARTS = ("teacher", "services", "trainer")
MANY_STEPS = 10_000


@dataclass
class System:
    """What a run left behind."""

    collector: Collector
    logs: dict[str, str]
    """Standard error, by part."""
    metrics: dict[str, set[str]]
    """Names that were exported, by part."""
    figures: dict[str, float]
    """The trainer's samples, by name and label values."""
    rollouts: list[dict[str, Any]]

    def lines(self, part: str) -> list[dict[str, Any]]:
        """All but what the training command says to the user when it has ended."""
        lines = self.logs[part].splitlines()
        return [json.loads(line) for line in lines if not line.startswith("Stopped after step ")]

    def trace_of_a_computed_job(self) -> list[Received]:
        """All spans of one job that went the whole way."""
        return next(
            spans
            for spans in self.collector.traces().values()
            if {"client.score", "engine"} <= {span.name for span in spans}
        )


def exported(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=240) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    samples = {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }
    # Also what has no sample yet, as a counter by reason before the first.
    names = {
        family.name + "_total" * (family.type == "counter"): float("nan") for family in families
    }
    return {**names, **samples}


def names_of(samples: dict[str, float]) -> set[str]:
    """Our metrics' names without what a histogram adds to its own."""
    ours = {name.partition(" ")[0] for name in samples if name.startswith("counterhint_")}
    return {name for name in ours if not re.search(r"_(bucket|count|sum|created)$", name)}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("system")
    model = write_chain_student(folder / "model", width=32, heads=4, kv_heads=2)
    redis = LocalRedis(folder / "redis")
    sockets = {part: f"unix://{folder}/{part}.sock" for part in PARTS}
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "run_dir": str(folder / "run"),
                "steps": MANY_STEPS,
                "task": {"kind": "chain", "operations": 2},
                "student": {"model": str(model), "device": "cpu"},
                "rollouts": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 8},
                "method": {"kind": "opd"},
                "scoring": {"address": sockets["services"], "connect_timeout": 200},
                "evaluation": {"problems": 2},
                "stop_after_unmixed_steps": MANY_STEPS,
                "monitors": {"prometheus": {"listen": "127.0.0.1:0"}, "tensorboard": False},
            }
        )
    )
    probes = ["--metrics-listen", "127.0.0.1:0"]
    commands = {
        "teacher": [
            *("teacher", "serve", "--model", str(model), "--listen", sockets["teacher"]),
            *probes,
        ],
        "services": [
            *("services", "run", "intake", "dispatcher", "--listen", sockets["services"]),
            *("--teachers", sockets["teacher"], "--redis", redis.url, *probes),
        ],
        "trainer": ["train", str(recipe)],
    }
    redis.start()
    with ExitStack() as held:
        held.callback(redis.kill)
        collector = held.enter_context(collecting())
        running: dict[str, subprocess.Popen[bytes]] = {}
        logs = {part: folder / f"{part}.log" for part in PARTS}
        for part, words in commands.items():
            with logs[part].open("wb") as log:
                running[part] = subprocess.Popen(
                    [sys.executable, "-m", "deploy.cli", *words],
                    env={
                        **os.environ,
                        "OMP_NUM_THREADS": "1",
                        "HF_HUB_OFFLINE": "1",
                        "COUNTERHINT_LOG_FORMAT": "json",
                        "COUNTERHINT_LOG_LEVEL": "debug",
                        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
                    },
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            held.callback(running[part].kill)

        def urls() -> dict[str, str]:
            found = {
                part: re.search(r"metrics on (\S+/metrics)", log.read_text())
                for part, log in logs.items()
            }
            for part, process in running.items():
                assert process.poll() is None, logs[part].read_text()
            return {part: match[1] for part, match in found.items() if match}

        wait_until(lambda: len(urls()) == len(PARTS))
        wait_until(lambda: exported(urls()["trainer"])["counterhint_trainer_step"] >= 2)
        samples = {part: exported(url) for part, url in urls().items()}
        for part in reversed(PARTS):  # so that each sends its last spans
            running[part].terminate()
            assert running[part].wait(240) == (143 if part == "trainer" else 0)
        rollouts = (folder / "run" / "rollouts.jsonl").read_text().splitlines()
        yield System(
            collector,
            {part: log.read_text() for part, log in logs.items()},
            {part: names_of(found) for part, found in samples.items()},
            samples["trainer"],
            [json.loads(line) for line in rollouts],
        )


def test_a_job_is_one_trace_from_the_trainer_to_the_engine(system: System) -> None:
    spans = {span.name: span for span in system.trace_of_a_computed_job()}
    parents = {
        "client.score": None,
        "intake.score": "client.score",
        "queue.wait": "intake.score",
        "dispatcher.deliver": "intake.score",
        "teacher.score": "dispatcher.deliver",
        "engine": "teacher.score",
    }
    assert set(spans) == set(parents)
    for name, parent in parents.items():
        assert spans[name].parent == (spans[parent].id if parent else "")
        assert spans[name].start <= spans[name].end
        assert not spans[name].failed
        assert spans[name].attributes["job"] == spans["client.score"].attributes["job"]
        assert spans[name].attributes["run"].startswith("run-")
    services = {name: span.service for name, span in spans.items()}
    assert services["client.score"] == "counterhint-trainer"
    assert services["intake.score"] == services["dispatcher.deliver"] == "counterhint-services"
    assert services["teacher.score"] == services["engine"] == "counterhint-teacher"
    assert spans["dispatcher.deliver"].attributes["attempt"] == 1
    assert spans["engine"].attributes["tokens"] > 0
    assert len({span.attributes["request_id"] for span in spans.values()}) == 1


def test_the_log_lines_about_a_job_have_its_request_id_in_every_process(system: System) -> None:
    facts = system.trace_of_a_computed_job()[0].attributes
    for part in PARTS:
        about = [line for line in system.lines(part) if line.get("job") == facts["job"]]
        assert about, part
        for line in about:
            assert line["request_id"] == facts["request_id"]
            assert line["run"] == facts["run"]
    for part in ("services", "teacher"):
        (end,) = [
            line
            for line in system.lines(part)
            if line.get("job") == facts["job"] and line.get("outcome")
        ]
        assert (end["level"], end["outcome"]) == ("INFO", "OK")
        assert end["tokens_naive"] >= end["tokens_computed"] > 0
        assert end["engine_seconds"] > 0


def test_every_line_is_an_object_with_time_level_logger_message_and_process(
    system: System,
) -> None:
    for part in PARTS:
        lines = system.lines(part)
        assert lines
        for line in lines:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00", line["time"])
            assert line["level"] in ("DEBUG", "INFO", "WARNING", "ERROR")
            assert line["logger"]
            assert line["message"]
            assert line["process"] == part


def test_token_ids_and_texts_are_not_in_the_logs(system: System) -> None:
    """Even at the level debug."""
    assert system.rollouts
    for part, log in system.logs.items():
        assert not re.search(r"\d+(?:(?:, ?| )\d+){3,}", log), part
        for rollout in system.rollouts:
            assert rollout["problem"] not in log, part
            if len(rollout["tokens"]) > 2:
                assert "".join(rollout["tokens"]) not in log, part


def documented(*sections: str) -> set[str]:
    """The names in the tables of sections of docs/operations.md."""
    found = set()
    text = OPERATIONS.read_text(encoding="utf-8")
    for section in sections:
        body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        prefix = re.search(r"names begin with\s+`(\w+)`", body)
        assert prefix is not None, section
        for row in re.findall(r"^\| (`.*?) \|", body, flags=re.MULTILINE):
            names = [name.partition("{")[0] for name in re.findall(r"`([^`]+)`", row)]
            found |= {prefix[1] + name for name in names if name}
    return found


@pytest.mark.parametrize(
    ("part", "sections"),
    [
        ("teacher", ("Metrics of the teacher", "Metrics of every server")),
        ("services", ("Metrics of the services", "Metrics of every server")),
        ("trainer", ("Metrics of the trainer",)),
    ],
)
def test_the_documented_metrics_are_those_that_a_process_exports(
    system: System, part: str, sections: tuple[str, ...]
) -> None:
    assert system.metrics[part] == documented(*sections)


def test_the_trainer_shows_its_last_step(system: System) -> None:
    assert system.figures["counterhint_trainer_steps"] == MANY_STEPS
    assert "counterhint_trainer_figure rollout/reward" in system.figures
    assert system.figures["counterhint_trainer_scoring_wait_seconds_count"] >= 2
