"""A short campaign: three seeds that together hold every kind of fault on every kind of process."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaign.runner import Runner

SEEDS = (592, 981, 1117)


@pytest.fixture
def runner() -> Iterator[Runner]:
    """Works in a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        yield Runner(Path(folder), real_every=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_promise_is_kept(runner: Runner, seed: int) -> None:
    result = asyncio.run(runner.run(seed))
    assert not result.violations, f"{result.report()}\n{result.story()}"
    assert result.history.calls
    assert result.history.finals
