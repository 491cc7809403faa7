from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from counterhint.contrast import Gate, modulate
from counterhint.contrast import contrast as numpy_contrast
from student_trainer.losses import RlcsdConfig, Targets
from student_trainer.losses.rlcsd import Rlcsd, contrast


def make_targets(seed: int = 0, rows: int = 3, hints: int = 4, tokens: int = 7) -> Targets:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: -torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    valid = torch.rand(rows, hints, generator=generator) > 0.4
    valid[:, 0] = True
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=generator)
    return Targets(
        mask=torch.arange(tokens) < lengths,
        advantages=torch.randn(rows, 1, generator=generator, dtype=torch.float64),
        old_log_probs=draw(rows, tokens),
        teacher=draw(rows, tokens),
        wrong=draw(rows, hints, tokens),
        wrong_valid=valid,
    )


@given(seed=st.integers(0, 10_000))
def test_torch_and_numpy_say_the_same(seed: int) -> None:
    targets = make_targets(seed)
    assert targets.teacher is not None
    assert targets.wrong is not None
    assert targets.wrong_valid is not None
    ours = Rlcsd(RlcsdConfig(tau=0.1)).modulate(targets)
    for row in range(len(targets.mask)):
        wrong = targets.wrong[row][targets.wrong_valid[row]].numpy()
        e_ctr = numpy_contrast(targets.teacher[row].numpy(), wrong)
        theirs = modulate(e_ctr, float(targets.advantages[row]), Gate(tau=0.1))
        inside = targets.mask[row].numpy()
        np.testing.assert_allclose(ours.contrast[row][inside], e_ctr[inside], atol=1e-12)
        np.testing.assert_array_equal(ours.selected[row][inside], theirs.selected[inside])
        np.testing.assert_allclose(
            ours.advantages[row][inside], theirs.advantage[inside], atol=1e-12
        )


@given(seed=st.integers(0, 10_000), advantage=st.floats(-3, 3))
def test_modulation_never_changes_the_sign(seed: int, advantage: float) -> None:
    targets = make_targets(seed)
    fixed = Targets(
        mask=targets.mask,
        advantages=torch.full((3, 1), advantage, dtype=torch.float64),
        old_log_probs=targets.old_log_probs,
        teacher=targets.teacher,
        wrong=targets.wrong,
        wrong_valid=targets.wrong_valid,
    )
    modulated = Rlcsd(RlcsdConfig(lam=5)).modulate(fixed).advantages
    assert (modulated * advantage >= 0).all()
    if advantage == 0:
        assert (modulated == 0).all()


def test_a_rollout_without_hints_keeps_its_advantage() -> None:
    wrong_valid = torch.zeros(1, 2, dtype=torch.bool)
    e_ctr = contrast(torch.zeros(1, 3), torch.zeros(1, 2, 3), wrong_valid)
    assert (e_ctr == 0).all()
    assert (contrast(torch.zeros(1, 3), torch.zeros(1, 0, 3), wrong_valid[:, :0]) == 0).all()


def test_probabilities_are_averaged_before_the_logarithm() -> None:
    wrong = torch.tensor([[[0.1], [0.3]]], dtype=torch.float64).log()
    e_ctr = contrast(
        torch.tensor([[0.4]], dtype=torch.float64).log(), wrong, torch.ones(1, 2, dtype=torch.bool)
    )
    assert e_ctr.item() == pytest.approx(np.log(0.4 / 0.2))


def test_residual_clip_must_be_a_range() -> None:
    with pytest.raises(ValidationError, match="residual_clip_low"):
        RlcsdConfig(residual_clip_low=1, residual_clip_high=-1)


def test_tokens_without_the_teachers_numbers_are_never_selected() -> None:
    # Not even where the clip allows no modulation of 0.
    method = Rlcsd(RlcsdConfig(residual_clip_low=0.1))
    targets = make_targets()
    scored = torch.arange(7) % 2 == 0
    modulation = method.modulate(replace(targets, scored=scored.expand(3, 7)))
    assert torch.equal(modulation.selected, targets.mask & scored)
    kept = targets.advantages.expand(3, 7)[~modulation.selected]
    assert torch.equal(modulation.advantages[~modulation.selected], kept)
