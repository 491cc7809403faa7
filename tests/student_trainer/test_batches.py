import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.batches import MicroBatch, Row, micro_batches, shuffled_parts
from student_trainer.scoring import TeacherScores
from tests.student_trainer.rollouts_of import make_rollout

CPU = torch.device("cpu")


def make_row(prompt: int, response: int, hints: int | None) -> Row:
    rollout = make_rollout(True, tokens=[10 + i for i in range(response)])
    hinted = None
    if hints is not None:
        correct = np.full(response, -0.25, dtype=np.float32)
        hinted = TeacherScores(correct, np.full((hints, response), -0.75, dtype=np.float32))
    return Row(np.arange(1, prompt + 1, dtype=np.int32), rollout, 0.5, hinted)


rows_strategy = st.lists(
    st.builds(
        make_row, st.integers(1, 9), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 4))
    ),
    min_size=1,
    max_size=12,
)


def rows_of(piece: MicroBatch) -> list[tuple[list[int], list[int]]]:
    return [
        (
            piece.input_ids[row, : piece.lengths[row]][
                ~piece.response_mask[row, : piece.lengths[row]]
            ].tolist(),
            piece.input_ids[row][piece.response_mask[row]].tolist(),
        )
        for row in range(len(piece.lengths))
    ]


@given(rows=rows_strategy, budget=st.integers(1, 60))
def test_every_row_is_there_once_and_whole(rows: list[Row], budget: int) -> None:
    pieces = list(micro_batches(rows, budget, CPU))
    found = sorted(pair for piece in pieces for pair in rows_of(piece))
    expected = sorted((row.prompt.tolist(), row.rollout.token_ids.tolist()) for row in rows)
    assert found == expected
    for piece in pieces:
        assert piece.input_ids.numel() <= budget or len(piece.lengths) == 1
        assert torch.equal(piece.response_mask.sum(1), piece.targets.mask.sum(1))


@given(rows=rows_strategy)
def test_hints_stay_with_their_row(rows: list[Row]) -> None:
    for piece in micro_batches(rows, 40, CPU):
        targets = piece.targets
        assert targets.wrong is not None
        assert targets.wrong_valid is not None
        assert targets.correct is not None
        for row in range(len(piece.lengths)):
            length = int(targets.mask[row].sum())
            hints = int(targets.wrong_valid[row].sum())
            expected = {
                -0.75: hints * length,
                0.0: targets.wrong[row].numel() - hints * length,
            }
            for value, count in expected.items():
                assert int((targets.wrong[row] == value).sum()) == count
            assert int((targets.correct[row] == -0.25).sum()) == (length if hints else 0)


def test_flat_values_go_back_to_their_rows() -> None:
    (piece,) = micro_batches([make_row(2, 3, 1), make_row(1, 2, 2)], 100, CPU)
    flat = torch.arange(1.0, 6.0, requires_grad=True)
    rows = piece.to_rows(flat)
    assert rows.tolist() == [[1, 2, 3], [4, 5, 0]]
    rows.sum().backward()
    assert flat.grad is not None
    assert flat.grad.tolist() == [1] * 5


def test_parts_cover_all_rows_in_an_order_that_the_seed_decides() -> None:
    rows = [make_row(1, length, None) for length in range(1, 8)]

    def lengths(seed: int) -> list[list[int]]:
        return [[row.tokens for row in part] for part in shuffled_parts(rows, 3, seed)]

    assert sorted(length for part in lengths(1) for length in part) == list(range(2, 9))
    assert [len(part) for part in lengths(1)] == [3, 2, 2]
    assert lengths(1) == lengths(1) != lengths(2)
    assert shuffled_parts(rows, 1, 5) == [rows]
