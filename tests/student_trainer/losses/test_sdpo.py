import pytest
import torch
from pydantic import ValidationError

from student_trainer.losses import SdpoConfig
from tests.student_trainer.losses.random_batches import (
    gradient_of,
    loss_of,
    make_batch,
    with_targets,
)


def test_the_ratio_scales_the_gradient_up_to_its_bound() -> None:
    batch = make_batch(SdpoConfig().build(), seed=1)
    sampled = batch.student().sampled.detach()
    everywhere = torch.ones_like(batch.targets.mask)

    def gradient(ratio: float) -> torch.Tensor:
        old = sampled - torch.tensor(ratio, dtype=torch.float64).log()
        return gradient_of(with_targets(batch, old_log_probs=old, scored=everywhere))

    torch.testing.assert_close(gradient(1.5), 1.5 * gradient(1.0))
    torch.testing.assert_close(gradient(7.0), 2.0 * gradient(1.0))


def test_metrics_of_the_ratio() -> None:
    batch = make_batch(SdpoConfig().build(), seed=1)
    old = batch.student().sampled.detach() - torch.tensor(3.0).log()
    metrics = loss_of(
        with_targets(batch, old_log_probs=old, scored=torch.ones_like(batch.targets.mask))
    ).metrics
    assert metrics["optim/clip_fraction"].item() == pytest.approx(1)
    assert metrics["optim/ratio_mean"].item() == pytest.approx(3)


def test_the_estimate_from_sampled_tokens_is_of_the_reverse_kl_only() -> None:
    with pytest.raises(ValidationError, match="set alpha to 1 or full_logit_distill to true"):
        SdpoConfig(full_logit_distill=False)
