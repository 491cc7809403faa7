import math
from pathlib import Path
from typing import Any

import pytest

from student_trainer.report.outcome import headline, in_plain_words, read_outcome
from student_trainer.report.run_folder import RunFolder, read_run_folder


def run_with(metrics: list[dict[str, Any]], **summary: Any) -> RunFolder:
    return RunFolder(Path("run"), {"method": {"kind": "rlcsd"}}, metrics, [], summary)


def evaluated(step: int, accuracy: float, stderr: float = 0.01) -> dict[str, Any]:
    return {"step": step, "eval/accuracy": accuracy, "eval/stderr": stderr, "eval/samples": 512}


def test_the_outcome_of_a_whole_run(run_dir: Path) -> None:
    outcome = read_outcome(read_run_folder(run_dir))
    assert outcome.method == "rlcsd"
    assert (outcome.steps, outcome.finished) == (60, True)
    assert outcome.before is not None
    assert outcome.after is not None
    assert (outcome.before.step, outcome.after.step) == (0, 60)
    assert outcome.before.samples == 1024
    assert outcome.length is not None
    assert (outcome.length.before, outcome.length.after) == (39.12, 37.4)
    assert outcome.saving == pytest.approx(12_345_678 / 3_456_789)


def test_a_run_without_summary_is_read_from_its_metrics(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    outcome = read_outcome(read_run_folder(run_dir))
    assert outcome.method == "rlcsd"
    assert not outcome.finished
    assert outcome.tokens_naive == 60 * 205_761
    assert outcome.length is not None
    assert outcome.length.before == 39
    assert outcome.wait_share is not None
    assert math.isclose(outcome.wait_share, 0.09, abs_tol=0.03)
    assert any("has not written its summary" in text for text in in_plain_words(outcome))


def test_a_clear_gain_is_called_one() -> None:
    outcome = read_outcome(run_with([evaluated(0, 0.45), evaluated(80, 0.75)], method="rlcsd"))
    assert headline(outcome) == "RLCSD: 45.0% → 75.0% of held-out problems solved"
    words = in_plain_words(outcome)[0]
    assert "In 80 steps the student gained 30 percentage points" in words
    assert "over 512 sampled answers: 21.2 times the standard error" in words


def test_a_clear_loss_is_called_one() -> None:
    words = in_plain_words(read_outcome(run_with([evaluated(0, 0.75), evaluated(80, 0.45)])))[0]
    assert "lost 30 percentage points" in words


def test_a_small_change_may_be_chance() -> None:
    words = in_plain_words(read_outcome(run_with([evaluated(0, 0.5), evaluated(8, 0.51)])))[0]
    assert "gained 1 percentage point " in words
    assert "it may be chance" in words


def test_no_change_and_no_standard_error() -> None:
    words = in_plain_words(read_outcome(run_with([evaluated(0, 0.5), evaluated(8, 0.5)])))[0]
    assert words == ("Held-out accuracy did not change in 8 steps, over 512 sampled answers.")
    words = in_plain_words(read_outcome(run_with([evaluated(0, 0.5, 0), evaluated(8, 0.6, 0)])))[0]
    assert "chance cannot be ruled out" in words


def test_one_evaluation_says_nothing_about_improvement() -> None:
    outcome = read_outcome(run_with([evaluated(0, 0.5), {"step": 1}]))
    assert outcome.after is None
    assert "50.0% of held-out problems solved at the start" in headline(outcome)
    assert "it takes a second one" in in_plain_words(outcome)[0]


def test_no_evaluation_is_said_in_words() -> None:
    outcome = read_outcome(run_with([{"step": 1}]))
    assert headline(outcome) == "RLCSD: 1 step, accuracy not measured"
    assert "measured no held-out accuracy" in in_plain_words(outcome)[0]
    assert outcome.saving is None
