import dataclasses

import numpy as np
import pytest

from counterhint.token_classes import TokenClasses
from student_trainer.batches import Row
from student_trainer.metrics import TokenSignals, signal_metrics
from student_trainer.scoring import TeacherScores
from tests.student_trainer.rollouts_of import make_rollout

CLASSES = TokenClasses(
    ("style", "task", "other"), np.array([2, 2, 2, 2, 0, 1, 1, 2], dtype=np.int8)
)


def make_row(tokens: list[int], teacher: TeacherScores | None) -> Row:
    rollout = make_rollout(True, tokens=tokens)
    prompt = np.array([1, 2], dtype=np.int32)
    return Row(prompt, rollout, 1.0, teacher, rollout.log_probs)  # log probs −0.5


def scores(sampled: list[float], *wrong: list[float]) -> TeacherScores:
    values = np.array(sampled, dtype=np.float32)
    branches = np.array(wrong, dtype=np.float32) if wrong else None
    return TeacherScores(~np.isnan(values), values, branches)


def test_signals_of_rows() -> None:
    rows = [
        make_row([4, 5, 6], scores([-0.1, -0.5, -1.5], [-0.1, -0.75, -0.5])),
        make_row([7], None),
        make_row([5, 5], scores([-0.25, np.nan])),
    ]
    signals = TokenSignals.of(rows)
    assert signals.token_ids.tolist() == [4, 5, 6, 7, 5, 5]
    nan = np.nan
    assert signals.one_sided == pytest.approx([0.4, 0, -1, nan, 0.25, nan], nan_ok=True)
    assert signals.contrast == pytest.approx([0, 0.25, -1, nan, nan, nan], nan_ok=True)
    assert signals.verdicts.tolist() == [-1] * 6


def test_the_student_is_the_one_before_the_update() -> None:
    row = make_row([4], scores([-1.0]))
    fresh = dataclasses.replace(row, old_log_probs=np.array([-0.75], np.float32))
    assert TokenSignals.of([fresh]).one_sided == pytest.approx([-0.25])


def test_means_and_shares_by_class() -> None:
    row = make_row([4, 5, 6, 7], scores([-0.1, -0.5, -1.5, -0.4], [-0.1, -0.75, -0.5, -0.4]))
    metrics = signal_metrics(TokenSignals.of([row]), CLASSES)
    assert metrics == pytest.approx(
        {
            "signal/contrast_abs": 1.25 / 4,
            "signal/contrast_abs/style": 0,
            "signal/contrast_share/style": 0,
            "signal/contrast_abs/task": 0.625,
            "signal/contrast_share/task": 1,
            "signal/contrast_abs/other": 0,
            "signal/contrast_share/other": 0,
            "signal/one_sided_abs": 1.5 / 4,
            "signal/one_sided_abs/style": 0.4,
            "signal/one_sided_share/style": 0.4 / 1.5,
            "signal/one_sided_abs/task": 0.5,
            "signal/one_sided_share/task": 1 / 1.5,
            "signal/one_sided_abs/other": 0.1,
            "signal/one_sided_share/other": 0.1 / 1.5,
        },
        abs=1e-6,
    )


def test_classes_that_do_not_occur_have_no_mean() -> None:
    metrics = signal_metrics(TokenSignals.of([make_row([4], scores([-1.0]))]), CLASSES)
    assert "signal/one_sided_abs/task" not in metrics
    assert metrics["signal/one_sided_share/task"] == 0
    assert not any(key.startswith("signal/contrast") for key in metrics)


def test_right_values_against_wrong_ones() -> None:
    row = make_row([5, 6, 5, 4], scores([-0.1, -0.9, -0.2, -3], [-0.4, -0.1, -0.3, -3]))
    verdicts = np.array([1, 0, 1, -1], dtype=np.int8)
    metrics = signal_metrics(TokenSignals.of([row], [verdicts]))
    assert metrics["signal/auc_contrast"] == 1
    assert metrics["signal/auc_one_sided"] == 1
    all_right = signal_metrics(TokenSignals.of([row], [np.maximum(verdicts, 1)]))
    assert not any("auc" in key for key in all_right)


def test_no_rows_no_metrics() -> None:
    assert signal_metrics(TokenSignals.of([]), CLASSES) == {}
    assert signal_metrics(TokenSignals.of([make_row([4, 5], None)]), CLASSES) == {}


def test_ranks_joined_are_as_one() -> None:
    rows = [make_row([4, 5], scores([-1, -2], [-1, -1])), make_row([6], scores([-0.2]))]
    joined = TokenSignals.joined([TokenSignals.of([row]) for row in rows])
    whole = TokenSignals.of(rows)
    for field in dataclasses.fields(TokenSignals):
        one, other = getattr(joined, field.name), getattr(whole, field.name)
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), field.name
        assert one.dtype == other.dtype
    empty = TokenSignals.joined([TokenSignals.of([]), whole])
    assert np.array_equal(empty.token_ids, whole.token_ids)
