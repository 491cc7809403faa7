"""What `docker compose --env-file deploy/cpu.env up` starts, started here as it stands in the file.

Grafana does not run here; Prometheus does where it is installed.
"""

import json
import shutil
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.compose_processes import Composition
from tests.deploy.compose_project import REPOSITORY, read_variables, services

STUDENTS = ("tiny-first", "tiny-second")
STEPS = 2
NOT_HERE = {"grafana"} | ({"prometheus"} if shutil.which("prometheus") is None else set())


@pytest.fixture(scope="module")
def composition() -> Iterator[Composition]:
    """All of the profile, well, while both students train."""
    variables = read_variables(REPOSITORY / "deploy" / "cpu.env") | {
        "COUNTERHINT_TINY_RECIPE": str(REPOSITORY / "tests" / "e2e" / "recipe.yaml"),
        "COUNTERHINT_TINY_STEPS": str(STEPS),
    }
    with tempfile.TemporaryDirectory() as folder:  # pytest's folders are too deep for sockets
        secrets = Path(folder) / "secrets"
        subprocess.run(
            [REPOSITORY / "deploy" / "make-secrets"],
            env={"PATH": "/usr/bin:/bin", "COUNTERHINT_SECRETS": str(secrets)},
            check=True,
        )
        profile = services("cpu", variables)
        composition = Composition(profile, Path(folder), secrets)
        try:
            for name in sorted(profile.keys() - NOT_HERE):
                composition.up(name)
            yield composition
        finally:
            composition.down()


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
        [*composition.command("services")[:3], "runs", "ls", "--json"]
        + ["--config", str(composition.secrets / "queue.yaml")],
        env=composition.environment("services"),
        capture_output=True,
        check=True,
    )
    done = {run["run_id"]: run["done"] for run in json.loads(listed.stdout)}
    assert done.keys() >= {"first", "second"}
    assert done["first"] > 0
    assert done["second"] > 0


def get(composition: Composition, service: str, port: str, path: str) -> bytes:
    """What a service answers to a GET, with the operator's token and over TLS where it has it."""
    scheme = "https" if port == "8080" else "http"
    token = (composition.secrets / "operator.token").read_text().strip()
    request = urllib.request.Request(
        f"{scheme}://127.0.0.1:{composition.port(service, port)}{path}",
        headers={"Authorization": f"Bearer {token}"},
    )
    tls = ssl.create_default_context(cafile=str(composition.secrets / "ca.pem"))
    with urllib.request.urlopen(request, context=tls, timeout=30) as reply:
        content: bytes = reply.read()
    return content


