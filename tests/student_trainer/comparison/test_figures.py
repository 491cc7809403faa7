from math import sqrt
from pathlib import Path

import pytest

from student_trainer.comparison.entries import read_entries
from student_trainer.comparison.figures import (
    FIGURES,
    Mean,
    curve,
    difference,
    entry_figures,
    mean_of,
    run_figures,
)
from tests.student_trainer.comparison.compared_runs import BOTH_SIGNALS, STEPS


def test_the_standard_error_is_that_of_the_mean() -> None:
    assert mean_of([1.0, 2.0, 6.0]) == Mean(3.0, pytest.approx(sqrt(7 / 3)), 3)


def test_a_single_run_has_no_standard_error() -> None:
    assert mean_of([0.5]) == Mean(0.5, None, 1)


def test_figures_are_means_over_seeds(folders: list[Path]) -> None:
    grpo, _, rlcsd = (entry_figures(entry) for entry in read_entries(folders))
    assert grpo["accuracy_after"] == Mean(pytest.approx(0.7), pytest.approx(0.1), 2)
    assert grpo["student_tokens"] == Mean(2 * 3 * 10 * STEPS, 0.0, 2)
    assert rlcsd["contrast_task"].mean == pytest.approx(BOTH_SIGNALS["signal/contrast_abs/task"])
    assert rlcsd.keys() == FIGURES.keys()


def test_what_a_run_has_not_measured_is_absent(folders: list[Path]) -> None:
    grpo, opsd, _ = read_entries(folders)
    without = {"one_sided_style", "teacher_tokens", "auc_contrast", "contrast_style"}
    assert not without & run_figures(grpo.runs[0]).keys()
    assert "contrast_style" not in entry_figures(opsd)
    assert "one_sided_style" in entry_figures(opsd)


def test_differences_are_paired_by_seed(folders: list[Path]) -> None:
    grpo, opsd, rlcsd = read_entries(folders)
    change = difference(opsd, grpo, "accuracy_after")  # −0.3 and −0.4
    assert change == Mean(pytest.approx(-0.35), pytest.approx(0.05), 2)
    alone = read_entries([folders[1], folders[4]])  # grpo with seed 1, rlcsd with seed 0
    assert difference(alone[1], alone[0], "accuracy_after") is None
    assert difference(rlcsd, opsd, "contrast_style") is None


def test_a_curve_holds_the_steps_that_every_run_has(folders: list[Path]) -> None:
    metrics = folders[1] / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-1]))
    grpo = read_entries(folders)[0]
    assert curve(grpo, "eval/accuracy", smooth=False) == [(0, Mean(0.4, 0.0, 2))]
    assert [step for step, _ in curve(grpo, "rollout/length", smooth=True)] == [1, 2, 3]
    assert curve(grpo, "signal/auc_contrast", smooth=False) == []
