import random

import pytest

from student_trainer.hints import HintConfig, choose_hints
from student_trainer.losses import TeacherNeeds
from student_trainer.metrics import RolloutFigures, hint_metrics
from tests.student_trainer.rollouts_of import NEEDS, make_group


def test_rollouts_with_and_without_hints() -> None:
    groups = [make_group("rrww"), make_group("rrrr")]
    hints = [choose_hints(group, HintConfig(), NEEDS, random.Random(0)) for group in groups]
    metrics = hint_metrics(RolloutFigures.of(groups, hints, [range(4), [3]]))
    assert metrics == pytest.approx(
        {
            "hints/coverage": 4 / 8,
            "hints/dropped": 3,
            "hints/plain": 1,
            "hints/wrong_mean": (2 + 2 + 1 + 1) / 4,
        }
    )


def test_methods_without_wrong_hints_have_no_mean_of_them() -> None:
    group = make_group("rrww")
    needs = TeacherNeeds(reads="correct_hint")
    hints = choose_hints(group, HintConfig(), needs, random.Random(0))
    metrics = hint_metrics(RolloutFigures.of([group], [hints], [range(4)]))
    assert metrics == {"hints/coverage": 1.0, "hints/dropped": 0.0, "hints/plain": 0.0}


def test_no_hints_at_all() -> None:
    group = make_group("ww")
    metrics = hint_metrics(RolloutFigures.of([group], [(None, None)], [()]))
    assert metrics == {"hints/coverage": 0.0, "hints/dropped": 2.0, "hints/plain": 0.0}
