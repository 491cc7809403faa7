"""What `docker compose --env-file deploy/cpu.env up` starts, started here as it stands in the file.

All but Grafana: test_monitoring.py checks what it is given, and here Prometheus answers every query
of its dashboard.
"""

import json
import math
import re
import shutil
import ssl
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from counterhint import ScoringClient, ScoringJob, pairs_array
from counterhint.credentials import Credentials
from counterhint.errors import WeightsUnavailable
from counterhint.jobs import Weights
from tests.deploy.compose_processes import Composition, composition_of
from tests.deploy.compose_project import REPOSITORY, read_variables, services
from tests.deploy.dashboard import QUERIES, Query
from tests.processes import wait_until
from tests.programs import PATH, program

pytestmark = pytest.mark.timeout(900)  # the first test waits for all to start
STUDENTS = ("tiny-first", "tiny-second")
STEPS = 2
INSTALLED = shutil.which("prometheus", path=PATH) is not None
NOT_HERE = {"grafana"} if INSTALLED else {"grafana", "prometheus"}


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


def score(composition: Composition) -> Any:
    """What the gateway answers to a response that it is to score."""
    hints = {
        "correct": "7 (1) +5 (2) *3 . reference so (1) =2 then (2) =6 answer 6 end",
        "wrong": "7 (1) +5 (2) *3 . reference so (1) =2 then (2) =1 answer 1 end",
    }
    right, wrong = ([{"role": "user", "content": text}] for text in hints.values())
    body = {
        "messages": {"correct": right, "wrong": [wrong]},
        "responses": ["so (1) =2 then (2) =6 answer 6"],
        "run": "curl",
    }
    return json.loads(ask(composition, "gateway", "8080", "/v1/distill/score", body))


def test_the_gateway_scores_and_knows_the_runs(composition: Composition) -> None:
    scored = score(composition)
    tokens = scored["responses"][0]["tokens"]
    assert "".join(tokens["text"]) == scored["responses"][0]["text"]
    assert all(isinstance(value, float) for value in tokens["e_ctr"])
    for name in STUDENTS:
        composition.wait(name)
    known = json.loads(ask(composition, "gateway", "8080", "/v1/runs"))
    assert {run["run_id"] for run in known} == {"curl", "first", "second"}


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
    used = {
        name
        for query in QUERIES
        for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", query.expression)
    }
    names = {name for name in used if name.startswith(("counterhint_", "process_"))}
    assert len(names) > 20
    assert names <= exported(composition)


def ask_prometheus(composition: Composition, path: str, **parameters: object) -> Any:
    """The data of an answer of Prometheus; raises where a query is no PromQL."""
    path = f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    return json.loads(ask(composition, "prometheus", "9090", path))["data"]


def test_prometheus_has_every_target(composition: Composition) -> None:
    program("prometheus")

    def up() -> set[str]:
        targets = ask_prometheus(composition, "targets")["activeTargets"]
        return {target["labels"]["job"] for target in targets if target["health"] == "up"}

    wait_until(lambda: up() == {"teacher", "services", "gateway"})


def fail_to_score(composition: Composition) -> None:
    """Sends a job of the run `first` that the teacher cannot score: its weights are not there."""
    credentials = Credentials(
        token_file=composition.secrets / "first.token", tls_ca=composition.secrets / "ca.pem"
    )
    address = f"127.0.0.1:{composition.port('services', '50050')}"
    nowhere = (composition.folder / "runs" / "first" / "absent.safetensors").as_uri()
    with ScoringClient(address, credentials=credentials) as client:
        job = ScoringJob(
            id=f"without-weights-{time.time_ns()}",
            run_id="first",
            contexts=(np.arange(3, 10, dtype=np.int32),),
            responses=(np.arange(3, 10, dtype=np.int32),),
            pairs=pairs_array([(0, 0)]),
            tokenizer_fingerprint=client.get_teacher().tokenizer_fingerprint,
            weights=Weights(name="first", revision="absent", uri=nowhere, sha256="0" * 64),
        )
        with pytest.raises(WeightsUnavailable):
            client.score(job)


def test_every_panel_shows_live_figures(composition: Composition) -> None:
    """All 35 queries, with none that stays empty: meanwhile jobs are scored, and some fail.

    Asked as Grafana asks: a range in steps of the scrape interval, and rates over four of them.
    """
    program("prometheus")
    since = time.time()
    empty = list(QUERIES)

    def shows(query: Query) -> bool:
        expression = query.expression.replace("$__rate_interval", "20s")
        times = {"start": since, "end": time.time(), "step": "5s"}
        series = ask_prometheus(composition, "query_range", query=expression, **times)["result"]
        assert all(query.labels <= line["metric"].keys() for line in series), query
        return any(math.isfinite(float(value)) for line in series for _, value in line["values"])

    def work_and_look() -> bool:
        score(composition)
        fail_to_score(composition)
        empty[:] = [query for query in empty if not shows(query)]
        return not empty

    try:
        wait_until(work_and_look, 300)
    except AssertionError:
        raise AssertionError(f"these show nothing: {empty}") from None


def test_all_end_in_order(composition: Composition) -> None:
    codes = composition.down()
    assert set(codes.values()) == {0}, codes
