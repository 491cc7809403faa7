import dataclasses

import torch

from student_trainer.losses import OpsdConfig, OpsdEctrConfig
from tests.student_trainer.losses.random_batches import (
    gradient_of,
    loss_of,
    make_batch,
    with_targets,
)


def test_without_contrast_it_is_opsd() -> None:
    ours = make_batch(OpsdEctrConfig(alpha=0, cw_tau=0, beta=0.4).build(), seed=1)
    opsd = dataclasses.replace(ours, method=OpsdConfig(beta=0.4).build())
    torch.testing.assert_close(gradient_of(ours), gradient_of(opsd), rtol=1e-9, atol=1e-12)


def test_tokens_on_which_the_hints_agree_do_not_count() -> None:
    batch = make_batch(OpsdEctrConfig().build(), seed=2)
    agreeing = with_targets(
        batch,
        wrong_support=batch.targets.teacher_support,
        scored=torch.ones_like(batch.targets.mask),
    )
    assert gradient_of(agreeing).abs().max() < 1e-12
    assert loss_of(agreeing).metrics["signal/active_share"] < 1e-12


def test_the_contrast_moves_the_target_away_from_the_wrong_hint() -> None:
    batch = make_batch(OpsdEctrConfig(cw_tau=0, jsd_token_clip=0).build(), seed=3)
    wrong = batch.targets.wrong_support
    assert wrong is not None
    # The first support token becomes more probable under the wrong hint.
    raised = wrong.clone()
    raised[..., 0] = (raised[..., 0].exp() + 0.1).log()
    student = batch.student().support
    assert student is not None

    def push(targets_of: torch.Tensor) -> torch.Tensor:
        other = with_targets(batch, wrong_support=targets_of)
        score = other.student()
        assert score.support is not None
        piece = other.method.loss(score, other.targets, other.method.totals(other.targets))
        return torch.autograd.grad(piece.loss, score.support)[0][..., 0]

    where = batch.targets.scored_mask()
    assert (push(raised) > push(wrong))[where].all()
