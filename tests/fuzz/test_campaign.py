"""A short campaign against the real processes, and schemathesis on the gateway's document."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fuzz.campaign import Campaign, Figures
from tests.fuzz.system import System, open_targets, running_system

INPUTS = 1_000
"""Beside those of `test_decoders`."""
EXAMPLES = 4
"""Of schemathesis, for each operation."""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder, running_system(Path(folder)) as all_:
        yield all_


def test_no_input_crashes_hangs_or_bloats_a_server(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.campaign.SETTLE_SECONDS", 1.0)

    async def run() -> Figures:
        async with AsyncExitStack() as stack:
            targets = await open_targets(system, ("grpc", "http"), stack)
            return await Campaign(system, targets, seed=0).run(range(INPUTS))

    figures = asyncio.run(run())
    assert not figures.findings, "\n".join(figures.findings)
    assert figures.sent == INPUTS
    assert all(outcomes["OK"] or outcomes["200"] for outcomes in figures.outcomes.values())


def test_the_gateway_keeps_its_openapi_document(system: System) -> None:
    url = system.http["memory"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
            *("--checks", f"{checks},response_schema_conformance", "--phases", "examples,fuzzing"),
            *("--max-examples", str(EXAMPLES), "--seed", "0", "--no-color"),
            *("--request-timeout", "240", "--suppress-health-check", "too_slow"),
        ],
        capture_output=True,
        text=True,
        cwd=system.folder,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert not [complaint for one in system.processes.values() for complaint in one.complaints()]
