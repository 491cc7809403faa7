import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.batches import (
    BatchConfig,
    MicroBatch,
    Row,
    even_log_prob,
    micro_batches,
    shuffled_parts,
)
from student_trainer.scoring import TeacherScores
from tests.student_trainer.rollouts_of import make_rollout

CPU = torch.device("cpu")
SUPPORT = 3


def make_scores(scored: list[bool], hints: int) -> TeacherScores:
    """Every field, NaN where nothing is scored."""
    known = np.array(scored)
    length = len(scored)

    def numbers(value: float, *shape: int) -> np.ndarray:
        return np.full(shape, value, dtype=np.float32)

    def with_holes(values: np.ndarray) -> np.ndarray:
        values[~known] = np.nan
        return values

    ids = np.arange(length * SUPPORT, dtype=np.int32).reshape(length, SUPPORT) + 20
    return TeacherScores(
        scored=known,
        sampled=with_holes(numbers(-0.25, length)),
        wrong=np.where(known, numbers(-0.75, hints, length), np.float32(np.nan)),
        support_ids=ids,
        support=with_holes(numbers(-2.0, length, SUPPORT)),
        wrong_support=with_holes(numbers(-3.0, length, SUPPORT)),
        entropy=with_holes(numbers(0.5, length)),
    )


def make_row(prompt: int, response: int, teacher: TeacherScores | None = None) -> Row:
    rollout = make_rollout(True, tokens=[10 + i for i in range(response)])
    return Row(np.arange(1, prompt + 1, dtype=np.int32), rollout, 0.5, teacher, rollout.log_probs)


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    response = draw(st.integers(1, 9))
    scored = draw(
        st.one_of(st.none(), st.lists(st.booleans(), min_size=response, max_size=response))
    )
    teacher = None if scored is None else make_scores(scored, draw(st.integers(0, 4)))
    return make_row(draw(st.integers(1, 9)), response, teacher)


some_rows = st.lists(any_row(), min_size=1, max_size=12)


def cut(rows: list[Row], budget: int, packing: bool = False) -> list[MicroBatch]:
    config = BatchConfig(micro_batch_tokens=budget, packing=packing)
    return list(micro_batches(rows, config, CPU, step=3))


def sequences(piece: MicroBatch) -> list[list[int]]:
    """The rows' tokens, found by the positions alone."""
    ids, positions = piece.tokens.input_ids, piece.tokens.position_ids
    if piece.tokens.attention_mask is not None:
        attended = piece.tokens.attention_mask.bool()
        ids, positions = ids[attended], positions[attended]
    starts = (positions.flatten() == 0).nonzero()[:, 0].tolist()
    return [part.tolist() for part in ids.flatten().tensor_split(starts[1:])]


@given(rows=some_rows, budget=st.integers(1, 60), packing=st.booleans())
def test_every_row_is_there_once_and_whole(rows: list[Row], budget: int, packing: bool) -> None:
    pieces = cut(rows, budget, packing)
    found = sorted(row for piece in pieces for row in sequences(piece))
    assert found == sorted([*row.prompt, *row.rollout.token_ids] for row in rows)
    for piece in pieces:
        tokens = piece.tokens
        assert tokens.input_ids.numel() <= budget or len(piece.rows) == 1
        if packing:
            assert tokens.input_ids.shape == (1, sum(row.tokens for row in piece.rows))
        assert sequences(piece) == [[*row.prompt, *row.rollout.token_ids] for row in piece.rows]
        assert torch.equal(tokens.input_ids.flatten()[tokens.predicting + 1], tokens.targets)
        responses = np.concatenate([row.rollout.token_ids for row in piece.rows])
        assert tokens.targets.tolist() == responses.tolist()


@given(rows=some_rows, packing=st.booleans())
def test_the_teachers_numbers_stay_with_their_tokens(rows: list[Row], packing: bool) -> None:
    for piece in cut(rows, 40, packing):
        targets = piece.targets
        assert targets.step == 3
        for index, row in enumerate(piece.rows):
            length = len(row.rollout.token_ids)
            scored = np.zeros(targets.mask.shape[1], dtype=bool)
            if row.teacher is not None:
                scored[:length] = row.teacher.scored
            assert targets.mask[index].tolist() == [t < length for t in range(len(scored))]
            assert targets.scored is not None
            assert targets.scored[index].tolist() == scored.tolist()
            hints = (
                0 if row.teacher is None or row.teacher.wrong is None else len(row.teacher.wrong)
            )
            assert targets.wrong_valid is not None
            assert int(targets.wrong_valid[index].sum()) == hints
            assert targets.wrong is not None
            assert (targets.wrong[index, :hints, scored] == -0.75).all()
            assert (targets.wrong[index, :, ~scored] == -1).all()
            expected = {
                "teacher": (-0.25, -1.0),
                "teacher_support": (-2.0, even_log_prob(SUPPORT)),
                "wrong_support": (-3.0, even_log_prob(SUPPORT)),
                "teacher_entropy": (0.5, 0.0),
            }
            for name, (there, elsewhere) in expected.items():
                values = getattr(targets, name)[index]
                torch.testing.assert_close(values[scored], torch.full_like(values[scored], there))
                if targets.support_ids is not None and targets.support_ids.shape[-1]:
                    rest = torch.full_like(values[~scored], elsewhere)
                    torch.testing.assert_close(values[~scored], rest)
            if row.teacher is not None and row.teacher.support_ids is not None:
                assert targets.support_ids is not None
                assert targets.support_ids.dtype == torch.int64
                ids = targets.support_ids[index][scored].tolist()
                assert ids == row.teacher.support_ids[row.teacher.scored].tolist()


@given(rows=some_rows, packing=st.booleans())
def test_holes_give_finite_gradients_on_scored_tokens_only(rows: list[Row], packing: bool) -> None:
    """A divergence with a tail, of which the masked positions are dropped by `where`."""
    for piece in cut(rows, 40, packing):
        targets, tokens = piece.targets, int(piece.targets.mask.sum())
        assert targets.support_ids is not None
        assert targets.teacher_support is not None
        logits = torch.zeros(tokens, 64, requires_grad=True)
        student = piece.to_rows(
            logits.log_softmax(-1).gather(1, piece.to_flat(targets.support_ids))
        )

        def with_tail(log_probs: torch.Tensor) -> torch.Tensor:
            tail = torch.log1p(-log_probs.exp().sum(-1, keepdim=True))
            return torch.cat([log_probs, tail], dim=-1)

        ours, theirs = with_tail(student), with_tail(targets.teacher_support)
        divergence = (theirs.exp() * (theirs - ours)).sum(-1)
        torch.where(targets.scored_mask(), divergence, 0.0).sum().backward()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()
        reached = logits.grad.abs().sum(-1) > 0
        assert torch.equal(reached, piece.to_flat(targets.scored_mask()) & bool(student.shape[-1]))


@given(rows=some_rows)
def test_flat_values_go_to_their_rows_and_back(rows: list[Row]) -> None:
    (piece,) = cut(rows, 10_000)
    count = int(piece.targets.mask.sum())
    for shape in [(count,), (count, 2)]:
        flat = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        padded = piece.to_rows(flat)
        assert padded.shape == (*piece.targets.mask.shape, *shape[1:])
        assert torch.equal(piece.to_flat(padded), flat)
        padded.sum().backward()
        assert flat.grad is not None
        assert (flat.grad == 1).all()


def test_fields_that_no_row_carries_are_none() -> None:
    sampled = TeacherScores(np.ones(2, dtype=bool), sampled=np.full(2, -0.5, dtype=np.float32))
    with_scores, without = make_row(1, 2, sampled), make_row(1, 3)
    for piece in cut([with_scores, without], 1):  # the same in every piece
        assert piece.targets.teacher is not None
        assert piece.targets.wrong is piece.targets.wrong_valid is None
        assert piece.targets.support_ids is piece.targets.teacher_entropy is None
        assert piece.targets.importance is None


def test_without_any_scores_every_field_is_there_and_nothing_is_scored() -> None:
    (piece,) = cut([make_row(1, 2), make_row(2, 3)], 100)
    targets = piece.targets
    assert targets.scored is not None
    assert not targets.scored.any()
    for name in ("teacher", "wrong", "teacher_support", "wrong_support", "teacher_entropy"):
        assert getattr(targets, name) is not None
    assert targets.support_ids is not None
    assert targets.support_ids.shape == (2, 3, 0)


def test_importance_weights_stay_with_their_tokens() -> None:
    rows = [
        dataclasses.replace(make_row(1, length), importance=np.full(length, w, dtype=np.float32))
        for length, w in ((2, 0.5), (3, 1.5))
    ]
    (piece,) = cut(rows, 100)
    assert piece.targets.importance is not None
    assert piece.targets.importance.tolist() == [[1.5, 1.5, 1.5], [0.5, 0.5, 0.0]]
    with pytest.raises(ValueError, match="importance"):
        cut([rows[0], make_row(1, 2)], 100)


def test_numbers_that_do_not_fit_are_refused() -> None:
    whole = make_scores([True, True], 1)
    assert whole.support_ids is not None
    assert whole.sampled is not None
    narrow = dataclasses.replace(whole, support_ids=whole.support_ids[:, :2])
    with pytest.raises(ValueError, match=r"several sizes: \[2, 3\]"):
        cut([make_row(1, 2, whole), make_row(1, 2, narrow)], 1)
    broken = dataclasses.replace(whole, sampled=whole.sampled * np.float32(np.nan))
    with pytest.raises(ValueError, match=r"sampled.* NaN"):
        cut([make_row(1, 2, broken)], 100)
    with pytest.raises(ValueError, match="prompt without tokens"):
        cut([make_row(0, 2)], 100)


def test_parts_cover_all_rows_in_an_order_that_the_seed_decides() -> None:
    rows = [make_row(1, length) for length in range(1, 8)]

    def lengths(seed: int) -> list[list[int]]:
        return [[row.tokens for row in part] for part in shuffled_parts(rows, 3, seed)]

    assert sorted(length for part in lengths(1) for length in part) == list(range(2, 9))
    assert [len(part) for part in lengths(1)] == [3, 2, 2]
    assert lengths(1) == lengths(1) != lengths(2)
    assert shuffled_parts(rows, 1, 5) == [rows]
