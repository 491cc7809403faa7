import dataclasses
import random

import numpy as np
import pytest

from student_trainer.groups import Group
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.metrics import RolloutFigures, rollout_metrics, staleness_metrics
from tests.student_trainer.rollouts_of import NEEDS, make_group


def figures(*groups: Group) -> RolloutFigures:
    hints = [choose_hints(group, HintConfig(), NEEDS, random.Random(0)) for group in groups]
    return RolloutFigures.of(groups, hints, [range(len(group.rollouts)) for group in groups])


def changed(group: Group, **fields: object) -> Group:
    """The group with other values in its first rollout."""
    first, *others = group.rollouts
    return dataclasses.replace(group, rollouts=(dataclasses.replace(first, **fields), *others))


def test_figures_of_groups() -> None:
    metrics = rollout_metrics(figures(make_group("rw"), make_group("ww"), make_group("rr")))
    assert metrics == pytest.approx(
        {
            "rollout/reward": 0.5,
            "rollout/length": 3,
            "rollout/length_right": 3,
            "rollout/length_wrong": 3,
            "rollout/truncated_share": 0,
            "rollout/mixed_groups": 1 / 3,
            "rollout/entropy": 0.7,
        }
    )


def test_length_by_outcome_and_truncation() -> None:
    longer = changed(
        make_group("rw"),
        token_ids=np.arange(3, 10, dtype=np.int32),
        entropies=np.full(7, 0.7, np.float32),
        finished=False,
    )
    metrics = rollout_metrics(figures(longer))
    assert metrics["rollout/length_right"] == 7
    assert metrics["rollout/length_wrong"] == 3
    assert metrics["rollout/truncated_share"] == 0.5


def test_what_does_not_apply_is_absent() -> None:
    group = make_group("ww")
    rollouts = tuple(dataclasses.replace(r, entropies=None) for r in group.rollouts)
    metrics = rollout_metrics(figures(dataclasses.replace(group, rollouts=rollouts)))
    assert "rollout/entropy" not in metrics
    assert "rollout/length_right" not in metrics
    assert "rollout/length_wrong" in metrics


def test_rollouts_without_entropy_do_not_dilute_the_mean() -> None:
    metrics = rollout_metrics(figures(changed(make_group("rw"), entropies=None)))
    assert metrics["rollout/entropy"] == pytest.approx(0.7)


def test_ranks_joined_are_as_one() -> None:
    groups = make_group("rw"), make_group("ww"), make_group("rrw")
    parts = [figures(group) for group in groups]
    joined, whole = RolloutFigures.joined(parts), figures(*groups)
    for field in dataclasses.fields(RolloutFigures):
        assert np.array_equal(getattr(joined, field.name), getattr(whole, field.name)), field.name
    assert joined.wrong_hints.tolist() == [-1, -1, -1, -1, 1, 1, -1]


def test_staleness_counts_updates() -> None:
    group = changed(make_group("rwwr"), revision=2)
    metrics = staleness_metrics(figures(group), revision=4)
    assert metrics == {"staleness/mean": 3.5, "staleness/max": 4}
    assert staleness_metrics(figures(make_group("rw")), 0)["staleness/max"] == 0
