"""What `docker compose --env-file deploy/cpu.env up` starts, started here as it stands in the file.

Grafana does not run here; Prometheus does where it is installed.
"""

import json
import re
import shutil
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.compose_processes import Composition, composition_of
from tests.deploy.compose_project import REPOSITORY, read_variables, services
from tests.processes import wait_until

pytestmark = pytest.mark.timeout(900)  # the first test waits for all to start
STUDENTS = ("tiny-first", "tiny-second")
STEPS = 2
DASHBOARD = REPOSITORY / "deploy" / "monitoring" / "grafana" / "dashboards" / "counterhint.json"
QUERIES = [
    target["expr"]
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    for target in panel.get("targets", [])
]
NOT_HERE = {"grafana"} | ({"prometheus"} if shutil.which("prometheus") is None else set())


@pytest.fixture(scope="module")
def composition() -> Iterator[Composition]:
    """All of the profile, well, while both students train."""
    variables = read_variables(REPOSITORY / "deploy" / "cpu.env") | {
        "COUNTERHINT_TINY_RECIPE": str(REPOSITORY / "tests" / "e2e" / "recipe.yaml"),
        "COUNTERHINT_TINY_STEPS": str(STEPS),
    }
    profile = services("cpu", variables)
    with composition_of(profile) as composition:
        for name in sorted(profile.keys() - NOT_HERE):
            composition.up(name)
        yield composition


def rows(composition: Composition, run: str) -> list[dict[str, Any]]:
    """The metrics of a run's steps."""
    file = composition.folder / "runs" / run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_two_students_learn_from_one_teacher(composition: Composition) -> None:
    for name in STUDENTS:
        assert composition.wait(name) == 0, composition.log(name)
    for run in ("first", "second"):
        steps = rows(composition, run)
        assert [row["step"] for row in steps] == list(range(STEPS + 1))
        assert sum(row.get("scoring/jobs", 0) for row in steps) > 0


def test_the_queue_has_both_runs_in_its_accounts(composition: Composition) -> None:
    for name in STUDENTS:
        composition.wait(name)
    listed = subprocess.run(
        [
            *composition.command("services")[:3],
            *("runs", "ls", "--json", "--config", str(composition.secrets / "queue.yaml")),
        ],
        env=composition.environment("services"),
        capture_output=True,
        check=True,
    )
    done = {run["run_id"]: run["done"] for run in json.loads(listed.stdout)}
    assert done.keys() >= {"first", "second"}
    assert done["first"] > 0
    assert done["second"] > 0


def ask(composition: Composition, service: str, port: str, path: str, body: object = None) -> bytes:
    """What a service answers: to the operator and over TLS where it is the gateway."""
    scheme = "https" if port == "8080" else "http"
    token = (composition.secrets / "operator.token").read_text().strip()
    request = urllib.request.Request(
        f"{scheme}://127.0.0.1:{composition.port(service, port)}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    tls = ssl.create_default_context(cafile=str(composition.secrets / "ca.pem"))
    with urllib.request.urlopen(request, context=tls, timeout=60) as reply:
        content: bytes = reply.read()
    return content


def test_the_gateway_scores_and_knows_the_runs(composition: Composition) -> None:
    def read(path: str, body: object = None) -> Any:
        return json.loads(ask(composition, "gateway", "8080", path, body))

    hints = {
        "correct": "7 (1) +5 (2) *3 . reference so (1) =2 then (2) =6 answer 6 end",
        "wrong": "7 (1) +5 (2) *3 . reference so (1) =2 then (2) =1 answer 1 end",
    }
    right, wrong = ([{"role": "user", "content": text}] for text in hints.values())
    scored = read(
        "/v1/distill/score",
        {
            "messages": {"correct": right, "wrong": [wrong]},
            "responses": ["so (1) =2 then (2) =6 answer 6"],
            "run": "curl",
        },
    )
    tokens = scored["responses"][0]["tokens"]
    assert "".join(tokens["text"]) == scored["responses"][0]["text"]
    assert all(isinstance(value, float) for value in tokens["e_ctr"])
    for name in STUDENTS:
        composition.wait(name)
    assert {run["run_id"] for run in read("/v1/runs")} == {"curl", "first", "second"}


def exported(composition: Composition) -> set[str]:
    """Names of the series that teacher, services and gateway declare."""
    names: set[str] = set()
    for service in ("tiny-teacher", "services", "gateway"):
        text = ask(composition, service, "9464", "/metrics").decode()
        for family in text_string_to_metric_families(text):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            names.update(family.name + suffix for suffix in suffixes.get(family.type, ("",)))
    return names


def test_the_dashboard_shows_what_the_processes_export(composition: Composition) -> None:
    used = {name for query in QUERIES for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", query)}
    names = {name for name in used if name.startswith(("counterhint_", "process_"))}
    assert len(names) > 20
    assert names <= exported(composition)


@pytest.mark.skipif("prometheus" in NOT_HERE, reason="prometheus is not installed")
def test_prometheus_has_every_target_and_answers_the_dashboard(composition: Composition) -> None:
    def query(path: str) -> Any:
        return json.loads(ask(composition, "prometheus", "9090", f"/api/v1/{path}"))["data"]

    def up() -> set[str]:
        targets = query("targets")["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    wait_until(lambda: up() == {"teacher", "services", "gateway"})
    for expression in QUERIES:
        words = urllib.parse.quote(expression.replace("$__rate_interval", "1m"))
        query(f"query?query={words}")  # raises where it is no PromQL
    assert query("query?query=counterhint_teacher_ready")["result"][0]["value"][1] == "1"


def test_all_end_in_order(composition: Composition) -> None:
    codes = composition.down()
    assert set(codes.values()) == {0}, codes
