import pytest
import torch

from student_trainer.losses import OpsdConfig
from student_trainer.losses.opsd import clamped_divergence
from tests.student_trainer.losses.random_batches import loss_of, make_batch


def test_terms_are_clamped_before_the_sum() -> None:
    terms = torch.tensor([[0.2, 0.02, -0.1], [0.01, 0.01, 0.01]])
    tokens = clamped_divergence(terms, 0.05)
    assert tokens.loss.tolist() == pytest.approx([0.05 + 0.02 - 0.1, 0.03])
    assert tokens.divergence.tolist() == pytest.approx([0.12, 0.03])
    assert tokens.clipped.tolist() == [True, False]


def test_without_a_limit_nothing_is_clamped() -> None:
    tokens = clamped_divergence(torch.tensor([[0.2, -0.1]]), 0.0)
    assert tokens.loss.tolist() == pytest.approx([0.1])
    assert not tokens.clipped.any()


def test_metrics_are_means_over_distilled_tokens() -> None:
    batch = make_batch(OpsdConfig().build(), seed=1)
    metrics = loss_of(batch).metrics
    mask, scored = batch.targets.mask, batch.targets.scored
    assert scored is not None
    distilled = int((mask & scored).sum())
    assert metrics["signal/distilled_share"].item() == pytest.approx(distilled / int(mask.sum()))
    tokens = batch.method.distill(batch.student(), batch.targets, mask & scored)
    assert metrics["signal/divergence"].item() == pytest.approx(tokens.divergence.mean().item())
