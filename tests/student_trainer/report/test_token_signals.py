import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from student_trainer.report import token_signals
from student_trainer.report.run_folder import read_run_folder
from student_trainer.report.token_signals import choose_rollouts, class_means, has_signal, page_data


def small_rollout(**changes: Any) -> dict[str, Any]:
    return {
        "step": 1,
        "correct": True,
        "tokens": ["so", " 7", "."],
        "token_ids": [1, 2, 3],
        "token_classes": ["style", "task", "other"],
        "e_ctr": [0.1, -0.5, None],
        "e_c": [-2.0, 1.0, 0.5],
    } | changes


def test_means_by_token_class() -> None:
    rows = [small_rollout(), small_rollout(e_ctr=[0.3, 0.7, 0.2])]
    style, task, other = class_means(rows)
    assert (style.name, style.tokens) == ("style", 2)
    assert style.contrast == pytest.approx(0.2)
    assert style.one_sided == pytest.approx(2.0)
    assert task.contrast == pytest.approx(0.6)
    assert task.contrast_share == pytest.approx(1.2 / 1.8)
    assert (other.name, other.tokens) == ("other", 2)
    assert other.contrast == pytest.approx(0.2)
    assert style.one_sided_share + task.one_sided_share + other.one_sided_share == pytest.approx(1)


def test_a_method_without_contrast_has_means_of_the_one_sided_signal() -> None:
    style, task, other = class_means([small_rollout(e_ctr=None)])
    assert (style.one_sided, task.one_sided, other.one_sided) == (2.0, 1.0, 0.5)
    assert {mean.contrast for mean in (style, task, other)} == {None}
    assert {mean.contrast_share for mean in (style, task, other)} == {None}


def test_no_signals_give_no_means() -> None:
    assert class_means([small_rollout(e_ctr=None, e_c=None)]) == []
    assert class_means([]) == []


def test_rollouts_without_classes_are_other() -> None:
    (other,) = class_means([small_rollout(token_classes=None)])
    assert (other.name, other.tokens, other.contrast_share) == ("other", 3, 1)


def test_whether_a_signal_is_there() -> None:
    assert has_signal([small_rollout(e_ctr=None), small_rollout()], "e_ctr")
    assert not has_signal([small_rollout(e_ctr=None)], "e_ctr")
    assert not has_signal([small_rollout(e_ctr=[None] * 3)], "e_ctr")


def test_missing_values_stay_missing() -> None:
    data = page_data([small_rollout(e_ctr=[math.nan, math.inf, -0.123456])])
    (rollout,) = data["rollouts"]
    assert rollout["e_ctr"] == [None, None, -0.1235]
    assert rollout["student"] == [None, None, None]
    assert rollout["selected"] == [None, None, None]
    assert rollout["hints"] == {"correct": None, "wrong": []}
    json.dumps(data, allow_nan=False)


def test_the_colour_scale_is_the_98th_percentile_of_the_size(run_dir: Path) -> None:
    rollouts = read_run_folder(run_dir).rollouts
    sizes = [abs(value) for row in rollouts for value in row["e_ctr"]]
    scale = page_data(rollouts)["scales"]["e_ctr"]
    assert scale == pytest.approx(np.percentile(sizes, 98), rel=1e-3)
    assert page_data([small_rollout(e_ctr=None)])["scales"]["e_ctr"] is None


def test_lists_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values of e_c for 3 tokens"):
        page_data([small_rollout(e_c=[0.1, 0.2])])


def test_too_many_rollouts_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [small_rollout(step=step) for step in range(1, 101)]
    assert choose_rollouts(rows) == rows
    monkeypatch.setattr(token_signals, "MAX_TOKENS", 30)
    assert [row["step"] for row in choose_rollouts(rows)] == list(range(1, 101, 10))


def test_one_rollout_is_shown_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_signals, "MAX_TOKENS", 1)
    assert len(choose_rollouts([small_rollout()] * 3)) == 1


def test_values_are_kept_to_four_digits() -> None:
    (rollout,) = page_data([small_rollout(e_c=[-1.234567, 0.000123456, 98765.4])])["rollouts"]
    assert rollout["e_c"] == [-1.235, 0.0001235, 98770.0]
