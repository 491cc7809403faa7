import dataclasses

import pytest
import torch

from student_trainer.losses import GrpoConfig, SdpoConfig, SrpoConfig
from student_trainer.losses.srpo import Srpo
from tests.student_trainer.losses.random_batches import (
    gradient_of,
    loss_of,
    make_batch,
    with_targets,
)


def test_rollouts_are_routed_by_their_advantage() -> None:
    batch = make_batch(SrpoConfig(beta=0).build(), seed=1)
    rows = torch.tensor([[0.5], [-0.5], [0.0], [2.0]], dtype=torch.float64)
    routed = with_targets(batch, advantages=rows, scored=torch.ones_like(batch.targets.mask))
    sdpo = dataclasses.replace(routed, method=SdpoConfig().build())
    grpo = dataclasses.replace(routed, method=GrpoConfig().build())
    for row, other in enumerate((grpo, sdpo, sdpo, grpo)):
        torch.testing.assert_close(gradient_of(routed)[row], gradient_of(other)[row])


def test_weights_have_a_mean_of_1_over_the_routed_tokens_of_the_whole_batch() -> None:
    batch = make_batch(SrpoConfig(beta=2).build(), seed=2)
    method = batch.method
    assert isinstance(method, Srpo)
    totals = method.totals(batch.targets)
    weights = method.weights(batch.targets) * totals["routed"] / totals["weight"]
    assert totals["routed"] > 1
    assert weights[method.routed(batch.targets)].mean().item() == pytest.approx(1)


def test_equal_entropies_weigh_all_alike_however_large() -> None:
    batch = make_batch(SrpoConfig(beta=50).build(), seed=3)
    high = torch.full(batch.targets.mask.shape, 11.0)
    plain = dataclasses.replace(batch, method=SrpoConfig(beta=0).build())
    torch.testing.assert_close(
        gradient_of(with_targets(batch, teacher_entropy=high)), gradient_of(plain)
    )


def test_without_routed_tokens_it_is_grpo() -> None:
    batch = make_batch(SrpoConfig().build(), seed=4)
    good = with_targets(batch, advantages=batch.targets.advantages.abs() + 0.1)
    grpo = dataclasses.replace(good, method=GrpoConfig().build())
    assert torch.equal(loss_of(good).loss, loss_of(grpo).loss)
    assert torch.equal(gradient_of(good), gradient_of(grpo))
