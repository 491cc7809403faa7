import random

import numpy as np
import pytest

from student_trainer.batches import Row
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.scoring import TeacherScores
from student_trainer.step_metrics import Stopwatch, group_metrics, hint_metrics
from tests.student_trainer.rollouts_of import NEEDS, make_group


def test_group_metrics() -> None:
    metrics = group_metrics([make_group("rw"), make_group("ww"), make_group("rr")])
    assert metrics["rollout/reward"] == pytest.approx(0.5)
    assert metrics["rollout/mixed_groups"] == pytest.approx(1 / 3)
    assert metrics["rollout/length"] == 3
    assert metrics["rollout/entropy"] == pytest.approx(0.7)
    assert metrics["rollout/truncated_share"] == 0


def test_hint_metrics_cover_all_rollouts() -> None:
    group = make_group("rrww")
    hints = [choose_hints(group, HintConfig(), NEEDS, random.Random(0)), [None] * 4]
    rollout = group.rollouts[0]
    branch = np.array([-1.0, -0.5, -0.25], dtype=np.float32)
    scores = TeacherScores(np.ones(3, bool), branch, branch[None])
    rows = [
        Row(group.prompt, rollout, 1.0, teacher, rollout.log_probs) for teacher in (scores, None)
    ]
    metrics = hint_metrics(hints, rows)
    assert metrics["hints/coverage"] == pytest.approx(4 / 8)
    assert metrics["hints/wrong_mean"] == pytest.approx((2 + 2 + 1 + 1) / 4)
    assert metrics["signal/one_sided_abs"] == pytest.approx((0.5 + 0 + 0.25) / 3)


def test_no_hints_give_no_means() -> None:
    assert hint_metrics([[None, None]], []) == {"hints/coverage": 0.0}


def test_a_stopwatch_adds_up_also_when_a_stage_fails() -> None:
    watch = Stopwatch()
    with watch.stage("a"):
        pass
    first = watch.seconds["a"]
    with pytest.raises(RuntimeError), watch.stage("a"):
        raise RuntimeError
    assert watch.seconds["a"] > first
