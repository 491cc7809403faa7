from typing import Any

import pytest

from student_trainer.report.class_means import class_means, class_means_html, has_signal


def small_rollout(**changes: Any) -> dict[str, Any]:
    return {
        "tokens": ["so", " 7", "."],
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
    assert class_means_html([]) == ""


def test_rollouts_without_classes_are_other() -> None:
    (other,) = class_means([small_rollout(token_classes=None)])
    assert (other.name, other.tokens, other.contrast_share) == ("other", 3, 1)


def test_whether_a_signal_is_there() -> None:
    assert has_signal([small_rollout(e_ctr=None), small_rollout()], "e_ctr")
    assert not has_signal([small_rollout(e_ctr=None)], "e_ctr")
    assert not has_signal([small_rollout(e_ctr=[None] * 3)], "e_ctr")


def test_the_table_has_the_signals_that_there_are() -> None:
    both = class_means_html([small_rollout()])
    assert "83.3% of the contrast falls on task tokens, against 28.6% of the one-sided" in both
    assert "mean |e_ctr|" in both
    one = class_means_html([small_rollout(e_ctr=None)])
    assert "57.1% of the one-sided signal falls on style tokens." in one
    assert "mean |e_ctr|" not in one
