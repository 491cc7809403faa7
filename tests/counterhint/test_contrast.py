import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from counterhint.contrast import Gate, contrast, modulate, one_sided

VECTORS = Path(__file__).parents[1] / "vectors" / "reference_losses.json"
Array = NDArray[np.float64]


def log_probs(shape: int | tuple[int, int]) -> st.SearchStrategy[Array]:
    return st_numpy.arrays(np.float64, shape, elements=st.floats(-80, 0))


lengths = st.integers(1, 8)
correct_and_wrong = st.tuples(lengths, st.integers(1, 4)).flatmap(
    lambda size: st.tuples(log_probs(size[0]), log_probs((size[1], size[0])))
)
signals = lengths.flatmap(lambda size: st_numpy.arrays(np.float64, size, elements=st.floats(-5, 5)))
advantages = st.floats(-3, 3)


@given(correct_and_wrong)
def test_the_wrong_hints_probabilities_are_averaged_then_logged(
    arrays: tuple[Array, Array],
) -> None:
    correct, wrong = arrays
    expected = correct - (np.logaddexp.reduce(wrong, axis=0) - np.log(len(wrong)))
    np.testing.assert_allclose(contrast(correct, wrong), expected, rtol=1e-12, atol=1e-12)


def test_it_is_exact_where_probabilities_underflow() -> None:
    correct, wrong = np.array([-2000.0]), np.array([[-2001.0], [-2001.0]])
    np.testing.assert_allclose(contrast(correct, wrong), [1.0])


@given(correct_and_wrong, st.integers(1, 4))
def test_equal_wrong_hints_count_as_one(arrays: tuple[Array, Array], copies: int) -> None:
    correct, wrong = arrays
    single = correct - wrong[0]
    repeated = np.repeat(wrong[:1], copies, axis=0)
    np.testing.assert_allclose(contrast(correct, repeated), single, rtol=1e-12, atol=1e-12)


@given(correct_and_wrong, st.floats(-5, 5))
def test_a_shift_that_all_hints_share_cancels(arrays: tuple[Array, Array], shift: float) -> None:
    correct, wrong = arrays
    shifted = contrast(correct + shift, wrong + shift)
    np.testing.assert_allclose(shifted, contrast(correct, wrong), rtol=1e-9, atol=1e-9)


@given(correct_and_wrong)
def test_it_lies_between_the_contrasts_with_single_hints(arrays: tuple[Array, Array]) -> None:
    correct, wrong = arrays
    singles = correct - wrong
    e_ctr = contrast(correct, wrong)
    assert (e_ctr <= singles.max(axis=0) + 1e-9).all()
    assert (e_ctr >= singles.min(axis=0) - 1e-9).all()


@given(correct_and_wrong, st.randoms())
def test_the_order_of_the_wrong_hints_does_not_matter(
    arrays: tuple[Array, Array], source: Any
) -> None:
    correct, wrong = arrays
    order = source.sample(range(len(wrong)), len(wrong))
    np.testing.assert_allclose(
        contrast(correct, wrong[order]), contrast(correct, wrong), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 4)])
def test_wrong_hints_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[K >= 1, 3\]"):
        contrast(np.zeros(3), np.zeros(shape))


def test_one_sided_evidence_is_correct_minus_student() -> None:
    np.testing.assert_allclose(one_sided(np.array([-1.0]), np.array([-3.0])), [2.0])


@given(signals, advantages)
def test_the_sign_of_the_advantage_is_never_crossed(e_ctr: Array, advantage: float) -> None:
    changed = modulate(e_ctr, advantage).advantage
    assert (changed * advantage >= 0).all()
    if advantage == 0:
        assert (changed == 0).all()


@given(signals, advantages)
def test_exactly_the_tokens_with_a_large_change_are_selected(
    e_ctr: Array, advantage: float
) -> None:
    gate = Gate(tau=0.5)
    result = modulate(e_ctr, advantage, gate)
    residual = np.clip(0.5 * np.tanh(e_ctr / 0.5), -2, 2)
    np.testing.assert_allclose(result.residual, residual)
    np.testing.assert_array_equal(result.selected, np.abs(residual) > 0.02)
    assert (result.advantage[~result.selected] == advantage).all()


@given(signals, st.floats(0.1, 3))
def test_better_under_the_correct_hint_never_lowers_the_advantage(
    e_ctr: Array, advantage: float
) -> None:
    assume(len(e_ctr) > 1)
    up = modulate(np.abs(e_ctr), advantage).advantage
    assert (up >= advantage).all()
    assert (modulate(-np.abs(e_ctr), advantage).advantage <= advantage).all()


def test_the_bounds_of_the_gate_limit_the_change() -> None:
    gate = Gate(lam=10.0, clip_low=-0.3, clip_high=0.4)
    result = modulate(np.array([1.0, -1.0]), 2.0, gate)
    np.testing.assert_allclose(result.advantage, [2.4, 1.7])


def _rlcsd_cases() -> list[dict[str, Any]]:
    return [
        case
        for case in json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
        if case["method"] == "rlcsd"
    ]


@pytest.mark.parametrize("case", _rlcsd_cases())
def test_it_gives_the_numbers_of_the_methods_authors(case: dict[str, Any]) -> None:
    inputs, settings = case["inputs"], case["hyperparameters"]
    gate = Gate(
        tau=settings["rlcsd_tau"],
        beta=settings["rlcsd_beta"],
        lam=settings["rlcsd_lam"],
        delta=settings["rlcsd_delta"],
        clip_low=settings["rlcsd_residual_clip_low"],
        clip_high=settings["rlcsd_residual_clip_high"],
    )
    signal, residuals = [], []
    for correct, wrong, valid, mask, advantage in zip(
        *(
            np.array(inputs[name])
            for name in (
                "teacher_correct_log_probs",
                "teacher_wrong_multi_log_probs",
                "teacher_wrong_multi_valid_mask",
                "response_mask",
                "advantages",
            )
        ),
        strict=True,
    ):
        counts = mask > 0
        e_ctr = contrast(correct, wrong[valid > 0])[counts]
        result = modulate(e_ctr, float(advantage[0]), gate)
        signal.append(e_ctr)
        residuals.append(result.residual[result.selected])
    e_ctr, residual = np.concatenate(signal), np.concatenate(residuals)
    metrics = case["expected"]["metrics"]
    # The authors' metrics pass through float32.
    assert len(residual) == metrics["rlcsd_selected_token_count"]
    assert e_ctr.mean() == pytest.approx(metrics["rlcsd_e_ctr_mean"], rel=1e-5)
    assert e_ctr.min() == pytest.approx(metrics["rlcsd_e_ctr_min"], rel=1e-5)
    assert e_ctr.max() == pytest.approx(metrics["rlcsd_e_ctr_max"], rel=1e-5)
    assert residual.mean() == pytest.approx(metrics["rlcsd_selected_residual_mean"], rel=1e-5)
