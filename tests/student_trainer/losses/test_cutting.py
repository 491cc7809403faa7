"""How a batch is cut into pieces changes neither loss, gradient nor metrics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.student_trainer.losses.random_batches import METHODS, build, loss_of, make_batch, take

ROWS = 7


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000), places=st.lists(st.integers(0, 3), min_size=ROWS, max_size=ROWS)
)
def test_cutting_the_batch_changes_nothing(name: str, seed: int, places: list[int]) -> None:
    batch = make_batch(build(METHODS[name]), seed, rows=ROWS)
    method = batch.method
    pieces = [[row for row in range(ROWS) if places[row] == place] for place in set(places)]
    parts = [method.totals(take(batch, rows)[1]) for rows in pieces]
    totals = {key: torch.stack([part[key] for part in parts]).sum() for key in parts[0]}
    whole = loss_of(batch)
    cut = [method.loss(*take(batch, rows), totals) for rows in pieces]
    loss = torch.stack([piece.loss for piece in cut]).sum()
    torch.testing.assert_close(loss, whole.loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(
        torch.autograd.grad(loss, batch.logits),
        torch.autograd.grad(whole.loss, batch.logits),
        rtol=1e-12,
        atol=1e-14,
    )
    for key, value in whole.metrics.items():
        sum_of_pieces = torch.stack([piece.metrics[key] for piece in cut]).sum()
        torch.testing.assert_close(sum_of_pieces, value, rtol=1e-6, atol=1e-9)
