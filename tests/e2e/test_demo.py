"""The demo from end to end, as a user runs it, with a recipe of seconds."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.demo import SUMMARY_KEYS
from student_trainer.monitors import read_rows
from tests.processes import running_in, wait_until

RECIPE = Path(__file__).with_name("recipe.yaml")
STEPS = 40


@dataclass
class RunningDemo:
    """A demo in a process group of its own, like one that was started from a shell."""

    process: subprocess.Popen[bytes]
    out: Path
    terminal: Path
    """What it has written to the terminal."""
    sockets: Path
    """Where its private folders are made."""

    def rows(self) -> list[dict[str, Any]]:
        """The metrics so far, without a line that is being written."""
        file = self.out / "metrics.jsonl"
        return read_rows(file) if file.exists() else []

    def wait_for_end(self) -> str:
        """What it has written to the terminal when it has ended."""
        self.process.wait()
        return self.terminal.read_text(encoding="utf-8")

    def wait_for_step(self, step: int) -> None:
        """Waits until a step is done; fails when the demo ends before."""
        wait_until(lambda: len(self.rows()) > step or self.process.poll() is not None, 200)
        assert self.process.poll() is None, self.terminal.read_text()

    def kill(self, words: str) -> None:
        """Kills a part, as a crash would."""
        process_id = self.part(words)
        assert process_id is not None
        os.kill(process_id, signal.SIGKILL)

    def shown_run(self) -> dict[str, Any]:
        """What the page that it tells of reads."""
        page = re.search(r"(http://\S+)/runs/(\S+)", self.terminal.read_text(encoding="utf-8"))
        assert page is not None
        return dict(httpx.get(f"{page[1]}/v1/training-runs/{page[2]}", timeout=30).json())

    def part(self, words: str) -> int | None:
        """The process id of the part whose command line holds these words."""
        found = [key for key, command in running_in(self.process).items() if words in command]
        return found[0] if found else None


@contextmanager
def demo(folder: Path, *arguments: str) -> Iterator[RunningDemo]:
    """A demo that is started in `folder`, by relative paths, as from anywhere."""
    shutil.copyfile(RECIPE, folder / "my.yaml")
    terminal = folder / "terminal.txt"
    # pytest's folders are too deep for sockets
    with tempfile.TemporaryDirectory() as sockets, terminal.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "deploy.cli", "demo", "--recipe", "my.yaml"),
                *("--out", "run", *arguments),
            ],
            cwd=folder,
            env={**os.environ, "TMPDIR": sockets},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield RunningDemo(process, folder / "run", terminal, Path(sockets))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class FinishedDemo:
    """What is left of a demo during which the teacher and the services were killed."""

    process: subprocess.Popen[bytes]
    output: str
    shown: dict[str, Any]
    """What its pages showed of the run meanwhile."""
    out: Path
    left_sockets: list[Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedDemo:
    with demo(tmp_path_factory.mktemp("demo"), "--steps", str(STEPS)) as running:
        running.wait_for_step(3)  # snapshot weights are in use by then
        running.kill("teacher serve")
        running.wait_for_step(10)
        running.kill("services run intake")
        shown = running.shown_run()
        output = running.wait_for_end()
        return FinishedDemo(
            running.process,
            output,
            shown,
            running.out,
            list(running.sockets.glob("counterhint-*")),
        )


def test_it_goes_on_when_the_teacher_and_the_services_are_killed(finished: FinishedDemo) -> None:
    assert finished.process.returncode == 0, finished.output
    assert "teacher was ended by signal 9; it is started again" in finished.output
    assert "services was ended by signal 9; it is started again" in finished.output


def test_the_run_could_be_watched(finished: FinishedDemo) -> None:
    assert finished.shown["run"] == "run"
    assert finished.shown["rows"][0]["step"] == 0
    assert finished.shown["step"] >= 10
    assert finished.shown["queue"]["tokens"] > 0


def test_nothing_is_lost_by_it(finished: FinishedDemo) -> None:
    rows = [json.loads(line) for line in (finished.out / "metrics.jsonl").open()]
    summary = json.loads((finished.out / "summary.json").read_text())
    assert [row["step"] for row in rows] == list(range(STEPS + 1))
    assert summary["steps"] == STEPS
    assert summary["groups_scored"] == sum(row.get("scoring/groups", 0) for row in rows) > 0


def test_the_summary_is_complete(finished: FinishedDemo) -> None:
    summary = json.loads((finished.out / "summary.json").read_text())
    assert set(SUMMARY_KEYS) <= set(summary)
    assert summary["method"] == "rlcsd"
    assert 0 < summary["tokens_computed"] < summary["tokens_naive"]
    stages = summary["seconds_by_stage"]
    launched = sum(stages[name] for name in ("models", "services", "training", "report"))
    assert summary["seconds_total"] == pytest.approx(launched, abs=0.1)


def test_the_report_needs_no_other_file(finished: FinishedDemo) -> None:
    report = (finished.out / "report.html").read_text(encoding="utf-8")
    assert "<html" in report
    for reference in ('src="http', "src='http", '<link rel="stylesheet"', "@import"):
        assert reference not in report


def test_the_end_says_what_came_out_and_where_it_is(finished: FinishedDemo) -> None:
    assert "Held-out accuracy" in finished.output
    assert "Report:   run/report.html" in finished.output


def test_nothing_is_left_behind(finished: FinishedDemo) -> None:
    wait_until(lambda: not running_in(finished.process))  # the last may still be exiting
    assert finished.left_sockets == []


@pytest.mark.parametrize("stage", ["models", "training"])
def test_ctrl_c_ends_everything(stage: str, tmp_path: Path) -> None:
    with demo(tmp_path, "--steps", "100000") as running:
        if stage == "models":
            wait_until(lambda: running.part("models make"))
        else:
            running.wait_for_step(2)
            assert len(running_in(running.process)) >= 5  # launcher, three services, trainer
        os.killpg(running.process.pid, signal.SIGINT)
        output = running.wait_for_end()
        assert running.process.returncode == 130, output
        assert "Traceback" not in output
        assert "every process of the demo has been ended" in output
        wait_until(lambda: not running_in(running.process))  # the last may still be exiting
        assert list(running.sockets.glob("counterhint-*")) == []


@pytest.mark.parametrize(
    ("recipe", "reason"), [("my.yaml", "did not make it"), ("run/recipe.yaml", "lies in it")]
)
def test_a_folder_that_no_demo_made_is_not_replaced(
    recipe: str, reason: str, tmp_path: Path
) -> None:
    own = [tmp_path / "run" / name for name in ("recipe.yaml", "thesis.txt")]
    own[0].parent.mkdir()
    for file in own:
        file.touch()
    with demo(tmp_path, "--recipe", recipe) as running:
        output = running.wait_for_end()
    assert running.process.returncode == 2
    assert reason in output
    assert sorted((tmp_path / "run").iterdir()) == own
