import json
import random

import numpy as np
import pytest

from student_trainer.batches import Row
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.losses import GrpoConfig, RlcsdConfig
from student_trainer.models import Student
from student_trainer.rollout_log import logged_rollouts
from student_trainer.scoring import TeacherScores
from tests.student_trainer.rollouts_of import NEEDS, make_group


def make_entries(verdicts: str) -> list[tuple]:  # type: ignore[type-arg]
    group = make_group(verdicts)
    hints = choose_hints(group, HintConfig(max_wrong=2), NEEDS, random.Random(0))
    entries = []
    for index, chosen in enumerate(hints):
        if chosen is None:
            continue
        wrong = np.full((len(chosen.wrong), 3), -0.75, dtype=np.float32)
        hinted = TeacherScores(np.ones(3, bool), np.full(3, -0.25, dtype=np.float32), wrong)
        advantage = 1.0 if verdicts[index] == "r" else -1.0
        rollout = group.rollouts[index]
        row = Row(group.prompt, rollout, advantage, hinted, rollout.log_probs)
        entries.append((group, index, chosen, row))
    return entries


def test_right_and_wrong_ones_by_turns_with_their_signal(student: Student) -> None:
    method = RlcsdConfig(tau=1.0).build()
    rows = list(logged_rollouts(5, make_entries("rrrwww"), student, method, 4))
    assert [row["correct"] for row in rows] == [True, False, True, False]
    for row in rows:
        assert row["step"] == 5
        assert row["e_ctr"] == pytest.approx([0.5] * 3)
        assert row["e_c"] == pytest.approx([0.25] * 3)
        expected = row["advantage"] + 0.5 * np.tanh(0.5)
        assert row["modulated"] == pytest.approx([expected] * 3, abs=1e-4)
        assert row["selected"] == [True] * 3
        assert "".join(row["tokens"]).replace(" ", "")
    json.dumps(rows, allow_nan=False)


def test_rollouts_of_one_side_only_are_kept_as_well(student: Student) -> None:
    entries = [entry for entry in make_entries("rwww") if not entry[0].rollouts[entry[1]].reward]
    rows = list(logged_rollouts(1, entries, student, GrpoConfig().build(), 2))
    assert [row["correct"] for row in rows] == [False, False]
    assert "modulated" not in rows[0]
