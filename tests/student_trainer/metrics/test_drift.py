import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from student_trainer.metrics import Drift, kl_estimates, kl_metrics


def row(length: float, entropy: float, reward: float) -> dict[str, float]:
    return {"rollout/length": length, "rollout/entropy": entropy, "rollout/reward": reward}


def test_the_first_step_is_the_start() -> None:
    drift = Drift({})
    assert drift.metrics(row(40, 0.5, 0.25)) == {
        "drift/length": 1,
        "drift/entropy": 1,
        "drift/reward": 0,
    }
    later = drift.metrics(row(60, 0.25, 0.75))
    assert later == {"drift/length": 1.5, "drift/entropy": 0.5, "drift/reward": 0.5}


def test_a_resumed_run_keeps_its_start() -> None:
    began = Drift({"training_seconds": 3.0})
    began.metrics(row(40, 0.5, 0.25))
    kept = {"training_seconds": 9.0} | began.totals()
    assert Drift(kept).metrics(row(60, 0.25, 0.75))["drift/length"] == 1.5
    assert set(began.totals()) == {
        "start/rollout/length",
        "start/rollout/entropy",
        "start/rollout/reward",
    }


def test_figures_that_appear_later_start_then_and_absent_ones_stay_absent() -> None:
    drift = Drift({})
    assert drift.metrics({"rollout/length": 40}) == {"drift/length": 1}
    assert drift.metrics({"rollout/entropy": 0.5}) == {"drift/entropy": 1}


def test_no_ratio_to_nothing() -> None:
    drift = Drift({})
    assert "drift/entropy" not in drift.metrics({"rollout/entropy": 0.0})
    assert "drift/entropy" not in drift.metrics({"rollout/entropy": 1.0})


@given(
    arrays(np.float32, 7, elements=st.floats(-30, 0, width=32)),
    arrays(np.float32, 7, elements=st.floats(-30, 0, width=32)),
)
def test_estimates_are_never_negative_and_zero_for_the_same(
    student: np.ndarray, start: np.ndarray
) -> None:
    assert (kl_estimates(student, start) >= 0).all()
    assert np.isfinite(kl_estimates(student, start)).all()
    assert (kl_estimates(student, student) == 0).all()


def test_the_mean_over_samples_is_the_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    now = torch.randn(8, generator=generator, dtype=torch.float64).log_softmax(-1)
    start = torch.randn(8, generator=generator, dtype=torch.float64).log_softmax(-1)
    divergence = float((now.exp() * (now - start)).sum())
    drawn = torch.multinomial(now.exp(), 200_000, replacement=True, generator=generator)
    estimates = kl_estimates(now[drawn].numpy(), start[drawn].numpy())
    error = float(estimates.std()) / len(drawn) ** 0.5
    assert kl_metrics([estimates])["drift/kl_to_start"] == pytest.approx(divergence, abs=5 * error)


def test_the_mean_is_over_tokens_of_all_rollouts() -> None:
    assert kl_metrics([np.array([0.3]), np.array([0.0, 0.0])])["drift/kl_to_start"] == (
        pytest.approx(0.1)
    )
    assert kl_metrics([]) == {}
