import json
import random
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from counterhint.tensors import TokenIds
from counterhint.token_classes import TokenClasses
from student_trainer.batches import Row
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.losses import (
    GrpoConfig,
    Method,
    OpdConfig,
    OpsdConfig,
    RlcsdConfig,
    RlsdConfig,
    TeacherNeeds,
)
from student_trainer.rollout_log import TrainedRollout, logged_rollouts, streamed_texts
from student_trainer.scoring import TeacherScores
from student_trainer.tiny.tokenizer import build_tokenizer
from tests.student_trainer.rollouts_of import make_group

TEXTS = [f" w{index}" for index in range(64)]
CLASSES = TokenClasses(("style", "task", "other"), np.array([2] * 5 + [0] + [1] * 58, np.int8))


def trained(verdicts: str, needs: TeacherNeeds, unscored: bool = False) -> list[TrainedRollout]:
    """Rollouts of one group with the scores that a method asks for; the first token of every
    response counts as not scored when `unscored` is set."""
    group = make_group(verdicts)
    hints = choose_hints(group, HintConfig(max_wrong=2), needs, random.Random(0))
    rollouts = []
    for rollout, chosen in zip(group.rollouts, hints, strict=True):
        sampled = np.array([np.nan if unscored else -0.25, -0.25, -0.25], np.float32)
        scores = TeacherScores(
            ~np.isnan(sampled),
            sampled if needs.sampled else None,
            np.stack([sampled - 0.5] * len(chosen.wrong)) if chosen and chosen.wrong else None,
        )
        reads = needs.reads == "problem" or chosen is not None
        advantage = 1.0 if rollout.verdict.correct else -1.0
        row = Row(group.prompt, rollout, advantage, scores if reads else None, rollout.log_probs)
        rollouts.append(TrainedRollout(group.problem, chosen, row))
    return rollouts


def texts_of(token_ids: TokenIds) -> list[str]:
    return [TEXTS[token] for token in token_ids]


def logged(rollouts: list[TrainedRollout], method: Method, count: int) -> list[dict[str, Any]]:
    rows = list(logged_rollouts(5, rollouts, texts_of, CLASSES, method, count))
    json.dumps(rows, allow_nan=False)
    return rows


def test_right_and_wrong_ones_by_turns_with_their_signal() -> None:
    method = RlcsdConfig(tau=1.0).build()
    rows = logged(trained("rrrwww", method.needs), method, 4)
    assert [row["correct"] for row in rows] == [True, False, True, False]
    for row in rows:
        assert row["step"] == 5
        assert row["tokens"] == [TEXTS[token] for token in row["token_ids"]]
        assert row["token_classes"] == ["style", "task", "other"]
        assert row["e_ctr"] == pytest.approx([0.5] * 3)
        assert row["e_c"] == pytest.approx([0.25] * 3)
        expected = row["advantage"] + 0.5 * np.tanh(0.5)
        assert row["modulated"] == pytest.approx([expected] * 3, abs=1e-4)
        assert row["selected"] == [True] * 3
        assert len(row["hint_texts"]["wrong"]) == len(row["wrong_hints"]) == 2


def test_a_method_without_a_teacher_logs_text_and_advantage() -> None:
    method = GrpoConfig().build()
    rows = logged(trained("rwww", method.needs), method, 2)
    assert [row["correct"] for row in rows] == [True, False]
    assert set(rows[0]) == {
        "step",
        "problem_id",
        "problem",
        "answer",
        "response_answer",
        "correct",
        "advantage",
        "tokens",
        "token_ids",
        "token_classes",
        "student",
    }


def test_a_method_without_wrong_hints_logs_the_one_sided_signal() -> None:
    method = RlsdConfig().build()
    (row,) = logged(trained("rw", method.needs), method, 1)
    assert row["e_c"] == pytest.approx([0.25] * 3)
    assert row["hint_texts"]["wrong"] == []
    assert "e_ctr" not in row
    assert "wrong_hints" not in row
    assert not row["correct"]  # the only one with a hint
    assert row["modulated"][0] != row["advantage"]
    assert row["selected"] == [True] * 3


def test_a_method_without_hints_logs_the_gap_to_its_teacher() -> None:
    method = OpdConfig().build()
    rows = logged(trained("rw", method.needs), method, 2)
    assert [row["e_c"] for row in rows] == [pytest.approx([0.25] * 3)] * 2
    assert "hint_texts" not in rows[0]
    assert "modulated" not in rows[0]


def test_support_scores_are_not_logged() -> None:
    method = OpsdConfig().build()
    assert method.needs.teacher_top_k
    (row, *_) = logged(trained("rrw", method.needs), method, 1)
    assert "hint_texts" in row
    assert not {"e_c", "e_ctr", "correct_hint", "support"} & set(row)


def test_tokens_without_a_number_have_none() -> None:
    method = RlcsdConfig().build()
    (row,) = logged(trained("rrww", method.needs, unscored=True), method, 1)
    assert row["correct_hint"] == row["e_c"][:1] + [-0.25] * 2
    assert row["e_ctr"] == [None, 0.5, 0.5]
    assert row["wrong_hints"][0][0] is None
    assert row["selected"] == [False, True, True]
    assert row["modulated"][0] == row["advantage"]


def test_scored_rollouts_come_first() -> None:
    method = RlcsdConfig().build()
    rollouts = trained("rwww", method.needs)  # the right one has no right sibling
    assert rollouts[0].row.teacher is None
    rows = logged(rollouts, method, 4)
    assert [row["correct"] for row in rows] == [False, False, False, True]
    assert "e_ctr" not in rows[3]


def test_texts_of_tokens_are_the_text_when_put_together() -> None:
    tokenizer = build_tokenizer()
    ids = np.array(tokenizer.encode("hence 1 (1) +5 =6 . answer 6"), np.int32)
    texts = streamed_texts(tokenizer, ids)
    assert texts[:3] == ["hence", " 1", " (1)"]
    assert "".join(texts) == "hence 1 (1) +5 =6 . answer 6"


def test_a_split_character_belongs_to_the_token_that_completes_it() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE({one: index for index, one in enumerate(alphabet)}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level)
    ids = np.array(tokenizer.encode("a €"), np.int32)
    assert streamed_texts(tokenizer, ids) == ["a", " ", "", "", "€"]
