"""Losses against the definitions written out in numpy, gradients against finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.student_trainer.losses.dense_losses import dense_loss
from tests.student_trainer.losses.random_batches import (
    METHODS,
    build,
    gradient_of,
    loss_of,
    make_batch,
)

share = st.floats(0, 1).map(lambda value: round(value, 2))
mixes = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])
clips = {"epsilon": st.sampled_from([0.05, 0.2, 0.5]), "dual_clip": st.sampled_from([1.1, 3.0])}
support = {**clips, "distill_add_tail": st.booleans()}
opsd = {**support, "beta": mixes, "jsd_token_clip": st.sampled_from([0.0, 0.01, 0.05, 1.0])}
sdpo = {**support, "alpha": mixes, "is_clip": st.sampled_from([0.7, 1.0, 2.0])}
rlsd = {
    "epsilon": clips["epsilon"],
    "epsilon_w": share.filter(lambda value: value < 1),
    "lam": share,
    "lam_decay_steps": st.sampled_from([0, 3, 10, 50]),
}
HYPERPARAMETERS: dict[str, dict[str, st.SearchStrategy[object]]] = {
    "grpo": clips,
    "rlcsd": {
        "epsilon": clips["epsilon"],
        "tau": st.sampled_from([0.02, 0.1, 1.0]),
        "beta": st.sampled_from([-1.0, 0.2, 1.0]),
        "lam": st.sampled_from([0.0, 0.5, 3.0]),
        "delta": st.sampled_from([0.0, 0.02, 0.3]),
        "eta": st.sampled_from([0.0, 0.5, 2.0]),
        "residual_clip_low": st.sampled_from([-2.0, -0.3]),
        "residual_clip_high": st.sampled_from([0.1, 2.0]),
    },
    "opsd": opsd,
    "sdpo": sdpo,
    "srpo": {**sdpo, "beta": st.sampled_from([0.0, 1.0, 6.0])},
    "rlsd": rlsd,
    "opsd_ectr": {
        **opsd,
        "alpha": st.sampled_from([0.0, 0.5, 2.0]),
        "log_w_floor": st.sampled_from([-30.0, -5.0, -1.0]),
        "cw_tau": st.sampled_from([0.0, 0.3, 1.0]),
    },
    "rlsd_ectr": rlsd,
    "opd": {
        **support,
        "mode": st.sampled_from(["policy_gradient", "supervised", "reverse_kl", "jsd"]),
        "jsd_mix": st.sampled_from([0.1, 0.5, 0.9]),
        "max_log_ratio": st.sampled_from([0.5, 10.0]),
        "min_log_prob": st.sampled_from([-2.0, -10.0]),
        "task_reward": st.sampled_from([0.0, 0.5]),
    },
}
STEP = 1e-6


def test_every_method_is_drawn() -> None:
    assert {settings["kind"] for settings in METHODS.values()} == set(HYPERPARAMETERS)


@pytest.mark.parametrize("kind", HYPERPARAMETERS)
@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 100_000))
def test_any_hyperparameters_give_the_loss_of_the_definition(
    kind: str, data: st.DataObject, seed: int
) -> None:
    method = build(
        {"kind": kind, **data.draw(st.fixed_dictionaries({}, optional=HYPERPARAMETERS[kind]))}
    )
    batch = make_batch(method, seed)
    logits = batch.logits.detach().numpy()
    expected = dense_loss(method.config, batch, logits, logits)
    assert loss_of(batch).loss.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_finite_differences(name: str, seed: int) -> None:
    batch = make_batch(build(METHODS[name]), seed, rows=3, positions=4, vocab=7)
    logits = batch.logits.detach().numpy()
    gradient = gradient_of(batch).numpy()
    differences = np.zeros_like(gradient)
    for index in np.ndindex(logits.shape):
        shifted = []
        for step in (STEP, -STEP):
            live = logits.copy()
            live[index] += step
            shifted.append(dense_loss(batch.method.config, batch, live, logits))
        differences[index] = (shifted[0] - shifted[1]) / (2 * STEP)
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-8)
    assert np.abs(gradient).max() > 1e-3
    assert torch.isfinite(gradient_of(batch)).all()
