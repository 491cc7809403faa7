import dataclasses

import pytest
import torch
from torch import Tensor

from student_trainer.losses import GrpoConfig, OpdConfig, StudentLogProbs, Targets
from student_trainer.losses.divergence import kl_terms
from tests.student_trainer.losses.random_batches import (
    gradient_of,
    loss_of,
    make_batch,
    with_targets,
)

VOCAB = 6


def expected_gradient(config: OpdConfig, logits: Tensor, teacher: Tensor) -> Tensor:
    """The mean, over the tokens that the student may sample at one position, of the gradient."""
    log_probs = logits.log_softmax(-1)
    total = torch.zeros_like(logits)
    for token in range(VOCAB):
        live = logits.clone().requires_grad_()
        scores = live.log_softmax(-1)
        every = torch.arange(VOCAB)[None, None]
        targets = Targets(
            mask=torch.ones(1, 1, dtype=torch.bool),
            advantages=torch.zeros(1, 1, dtype=torch.float64),
            old_log_probs=log_probs[token].reshape(1, 1),
            teacher=teacher[token].reshape(1, 1),
            support_ids=every,
            teacher_support=teacher[None, None],
        )
        student = StudentLogProbs(scores[token].reshape(1, 1), scores[None, None])
        method = config.build()
        method.loss(student, targets, method.totals(targets)).loss.backward()
        assert live.grad is not None
        total += log_probs[token].exp() * live.grad
    return total


def two(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = torch.randn(2, VOCAB, generator=generator, dtype=torch.float64)
    return logits, teacher.log_softmax(-1)


@pytest.mark.parametrize("mode", ["policy_gradient", "reverse_kl"])
def test_both_ways_to_the_reverse_kl_have_its_gradient(mode: str) -> None:
    logits, teacher = two()
    config = OpdConfig.model_validate(
        {"mode": mode, "max_log_ratio": 100, "min_log_prob": -100, "dual_clip": 1e6}
    )
    live = logits.clone().requires_grad_()
    kl_terms(live.log_softmax(-1), teacher).sum().backward()
    assert live.grad is not None
    torch.testing.assert_close(
        expected_gradient(config, logits, teacher), live.grad, rtol=1e-4, atol=1e-6
    )


def test_a_divergence_as_an_advantage_would_carry_no_signal() -> None:
    # Why the top-k modes are differentiated: their value does not depend on the sampled token.
    logits, _ = two()
    log_probs = logits.log_softmax(-1)
    mean = torch.zeros_like(logits)
    for token in range(VOCAB):
        live = logits.clone().requires_grad_()
        (-0.7 * live.log_softmax(-1)[token]).backward()
        assert live.grad is not None
        mean += log_probs[token].exp() * live.grad
    assert mean.abs().max() < 1e-12
    for mode in ("supervised", "reverse_kl", "jsd"):
        config = OpdConfig.model_validate({"mode": mode})
        assert expected_gradient(config, *two()).abs().max() > 0.01


def test_floor_and_bound_of_the_advantage() -> None:
    method = OpdConfig(min_log_prob=-10, max_log_ratio=4).build()
    ours = torch.tensor([[-1.0, -1.0, -9.0, -30.0]], dtype=torch.float64, requires_grad=True)
    targets = Targets(
        mask=torch.ones(1, 4, dtype=torch.bool),
        advantages=torch.zeros(1, 1, dtype=torch.float64),
        old_log_probs=ours.detach(),
        teacher=torch.tensor([[-2.0, -50.0, -1.0, -40.0]], dtype=torch.float64),
    )
    method.loss(StudentLogProbs(ours), targets, method.totals(targets)).loss.backward()
    assert ours.grad is not None
    # At a ratio of 1 the gradient is −advantage, over the number of tokens.
    torch.testing.assert_close(
        ours.grad * 4, torch.tensor([[1.0, 4.0, -4.0, 0.0]], dtype=torch.float64)
    )


def test_without_task_reward_unscored_tokens_and_advantages_have_no_say() -> None:
    batch = make_batch(OpdConfig().build(), seed=1)
    other = with_targets(batch, advantages=-3 * batch.targets.advantages)
    assert torch.equal(gradient_of(batch), gradient_of(other))
    unscored = with_targets(batch, scored=torch.zeros_like(batch.targets.mask))
    assert (gradient_of(unscored) == 0).all()


@pytest.mark.parametrize("mode", ["policy_gradient", "supervised", "reverse_kl", "jsd"])
def test_the_task_reward_adds_grpos_loss(mode: str) -> None:
    config = OpdConfig.model_validate({"mode": mode})
    alone = make_batch(config.build(), seed=2)
    both = dataclasses.replace(alone, method=config.model_copy(update={"task_reward": 0.3}).build())
    grpo = dataclasses.replace(alone, method=GrpoConfig().build())
    torch.testing.assert_close(
        loss_of(both).loss, loss_of(alone).loss + 0.3 * loss_of(grpo).loss, rtol=1e-12, atol=0
    )
