"""A comparison from end to end, as a user runs it, with a recipe of seconds."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.processes import running_in, wait_until

RECIPE = Path(__file__).with_name("recipe.yaml")


def compare(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a comparison in `folder`."""
    # pytest's folders are too deep for sockets
    with tempfile.TemporaryDirectory() as sockets:
        process = subprocess.Popen(
            [*(sys.executable, "-m", "deploy.cli", "compare", "my.yaml"), *arguments],
            cwd=folder,
            env={**os.environ, "TMPDIR": sockets},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        output, errors = process.communicate()
        wait_until(lambda: not running_in(process))  # the last may still be exiting
        assert list(Path(sockets).glob("counterhint-*")) == []
    return process.returncode, output.decode(), errors.decode()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    shutil.copyfile(RECIPE, folder / "my.yaml")
    return folder


@pytest.fixture(scope="module")
def first(workplace: Path) -> tuple[int, str, str]:
    """A comparison one of whose runs fails: it asks for more tokens than the vocabulary holds."""
    methods = ("--methods", "sdpo,rlcsd", "--seeds", "1", "--steps", "2")
    return compare(workplace, *methods, "--out", "out", "--set", "sdpo:hints.correct=self_rollout")


def test_a_run_that_fails_is_named_and_the_others_go_on(
    first: tuple[int, str, str], workplace: Path
) -> None:
    code, output, errors = first
    assert code == 1, errors
    assert "sdpo-seed-0 failed; its log: out/logs/sdpo-seed-0.log" in errors
    log = (workplace / "out" / "logs" / "sdpo-seed-0.log").read_text()
    assert "counterhint train: the method asks for the 100 most probable tokens" in log
    assert "2/2 rlcsd-seed-0: held-out accuracy" in output
    comparison = json.loads((workplace / "out" / "comparison.json").read_text())
    assert [entry["name"] for entry in comparison["methods"]] == ["rlcsd"]


@pytest.mark.usefixtures("first")
def test_what_is_there_is_not_made_again(workplace: Path) -> None:
    summary = workplace / "out" / "rlcsd" / "seed-0" / "summary.json"
    made = summary.stat().st_mtime_ns
    words = "--methods rlcsd --seeds 1 --steps 2 --out out --json"
    code, output, errors = compare(workplace, *words.split())
    assert code == 0, errors
    assert json.loads(output) == json.loads((workplace / "out" / "comparison.json").read_text())
    assert "1 runs by my.yaml, 1 of them there already" in errors
    assert summary.stat().st_mtime_ns == made
