import dataclasses

import pytest
import torch

from student_trainer.losses import GrpoConfig, RlsdConfig, RlsdEctrConfig
from tests.student_trainer.losses.random_batches import (
    gradient_of,
    loss_of,
    make_batch,
    with_targets,
)


def test_lambda_decays_linearly_from_step_1() -> None:
    config = RlsdConfig(lam=0.5, lam_decay_steps=50)
    shares = [config.lam_at(step) for step in (1, 2, 26, 50, 51, 500)]
    assert shares == pytest.approx([0.5, 0.49, 0.25, 0.01, 0, 0])
    assert RlsdConfig(lam_decay_steps=0).lam_at(10_000) == 0.5


def test_when_lambda_is_gone_it_is_grpo_without_the_dual_clip() -> None:
    batch = with_targets(make_batch(RlsdConfig().build(), seed=1), step=51)
    grpo = dataclasses.replace(batch, method=GrpoConfig(dual_clip=1e9).build())
    torch.testing.assert_close(gradient_of(batch), gradient_of(grpo))
    assert loss_of(batch).metrics["signal/lam"] == 0


@pytest.mark.parametrize("config", [RlsdConfig(lam=1), RlsdEctrConfig(lam=1)])
@pytest.mark.parametrize(
    ("advantage", "evidence", "weight"),
    [(1, 30, 1.2), (1, -30, 0.8), (-1, 30, 0.8), (-1, -30, 1.2)],
)
def test_evidence_strengthens_the_reward_of_right_and_weakens_the_blame_of_wrong_rollouts(
    config: RlsdConfig | RlsdEctrConfig, advantage: float, evidence: float, weight: float
) -> None:
    batch = make_batch(config.build(), seed=2)
    shape = batch.targets.mask.shape
    sampled = batch.student().sampled.detach()
    even = {
        "step": 1,
        "old_log_probs": sampled,
        "importance": None,
        "scored": torch.ones_like(batch.targets.mask),
        "advantages": torch.full(shape, advantage, dtype=torch.float64),
        "teacher": sampled + evidence,
        "wrong": sampled[:, None],
        "wrong_valid": torch.ones(shape[0], 1, dtype=torch.bool),
    }
    taught = with_targets(batch, **even)
    grpo = dataclasses.replace(taught, method=GrpoConfig().build())
    torch.testing.assert_close(gradient_of(taught), weight * gradient_of(grpo))


def test_the_contrast_needs_a_wrong_hint() -> None:
    batch = make_batch(RlsdEctrConfig().build(), seed=3)
    grpo = dataclasses.replace(batch, method=GrpoConfig(dual_clip=1e9).build())
    assert batch.targets.wrong_valid is not None
    without = torch.zeros_like(batch.targets.wrong_valid)
    for wrong, valid in (
        (batch.targets.wrong, without),
        (torch.zeros(4, 0, 6, dtype=torch.float64), without[:, :0]),
    ):
        other = with_targets(batch, wrong=wrong, wrong_valid=valid)
        torch.testing.assert_close(gradient_of(other), gradient_of(grpo))
