import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from student_trainer.losses.divergence import LARGEST_LOG_MASS, closed, jsd_terms

MIXES = st.floats(0, 1)


def two_distributions(seed: int, vocab: int = 12, scale: float = 5.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 6, vocab, generator=generator, dtype=torch.float64)
    first, second = logits.log_softmax(-1)
    return first, second


@given(seed=st.integers(0, 10_000), support=st.integers(1, 12), tail=st.booleans())
def test_a_closed_support_is_a_distribution(seed: int, support: int, tail: bool) -> None:
    log_probs, _ = two_distributions(seed)
    whole = closed(log_probs[:, :support], tail=tail).exp().sum(-1)
    torch.testing.assert_close(whole, torch.ones_like(whole), rtol=0, atol=2e-7)


@given(seed=st.integers(0, 10_000), support=st.integers(1, 12), mix=MIXES, tail=st.booleans())
def test_divergences_are_not_negative_and_vanish_for_equals(
    seed: int, support: int, mix: float, tail: bool
) -> None:
    ours, target = (
        closed(log_probs[:, :support], tail=tail) for log_probs in two_distributions(seed)
    )
    assert (jsd_terms(ours, target, mix).sum(-1) > -1e-9).all()
    assert jsd_terms(ours, ours, mix).sum(-1).abs().max() < 1e-9


@given(seed=st.integers(0, 10_000), support=st.integers(1, 11), mix=MIXES)
def test_the_tail_hides_divergence_but_makes_none(seed: int, support: int, mix: float) -> None:
    # Data processing inequality: merging tokens cannot part the distributions further.
    ours, target = two_distributions(seed)
    merged = jsd_terms(
        closed(ours[:, :support], tail=True), closed(target[:, :support], tail=True), mix
    )
    assert (merged.sum(-1) <= jsd_terms(ours, target, mix).sum(-1) + 1e-6).all()


def test_the_ends_are_the_two_kl_divergences() -> None:
    ours, target = two_distributions(0, scale=0.7)
    forward = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=target), torch.distributions.Categorical(logits=ours)
    )
    torch.testing.assert_close(jsd_terms(ours, target, 0).sum(-1), forward)
    torch.testing.assert_close(jsd_terms(target, ours, 1).sum(-1), forward)
    # The mixed one, divided by β or 1−β, tends to them.
    close = {"rtol": 1e-3, "atol": 0}
    torch.testing.assert_close(jsd_terms(ours, target, 1e-5).sum(-1) / 1e-5, forward, **close)
    torch.testing.assert_close(jsd_terms(target, ours, 1 - 1e-5).sum(-1) / 1e-5, forward, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mix", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scale", [1.0, 40.0, 400.0])
def test_a_support_that_covers_everything_stays_finite(
    dtype: torch.dtype, mix: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (scale * torch.randn(200, 8, generator=generator, dtype=dtype)).requires_grad_()
    target = (scale * torch.randn(200, 8, generator=generator, dtype=dtype)).log_softmax(-1)
    for support in (1, 7, 8):
        ours = closed(logits.log_softmax(-1)[:, :support], tail=True)
        loss = jsd_terms(ours, closed(target[:, :support], tail=True), mix).sum(-1)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()


def test_the_tail_keeps_its_digits_where_it_is_small() -> None:
    for rest in (1e-3, 1e-5, 5e-7):
        log_mass = torch.tensor([math.log1p(-rest)], dtype=torch.float64)
        assert closed(log_mass, tail=True)[-1].item() == pytest.approx(math.log(rest), rel=1e-9)
    smallest = math.log(-math.expm1(LARGEST_LOG_MASS))
    for log_mass in (-1e-9, 0.0, 1e-6):  # rounding may carry a mass above 1
        tail = closed(torch.tensor([log_mass], dtype=torch.float64), tail=True)[-1].item()
        assert tail == pytest.approx(smallest)
