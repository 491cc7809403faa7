import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from student_trainer.importance import RolloutImportanceConfig, importance_weights

LOG_PROBS = hnp.arrays(np.float32, 6, elements=st.floats(-12, 0, width=32))


def weights_of(
    trainer: list[float], sampler: list[float], **settings: object
) -> tuple[list[float], list[float]]:
    config = RolloutImportanceConfig.model_validate(settings)
    ratio, weights = importance_weights(
        np.log(np.array(trainer, dtype=np.float32)),
        np.log(np.array(sampler, dtype=np.float32)),
        config,
    )
    return ratio.tolist(), weights.tolist()


def test_token_weights_are_cut_at_the_threshold() -> None:
    ratio, weights = weights_of([0.5, 0.9, 0.1], [0.5, 0.3, 0.4], level="token")
    assert ratio == pytest.approx([1.0, 3.0, 0.25])
    assert weights == pytest.approx([1.0, 2.0, 0.25])


def test_a_sequence_has_one_weight_the_product_of_its_ratios() -> None:
    ratio, weights = weights_of([0.5, 0.9, 0.1], [0.5, 0.3, 0.4], level="sequence")
    assert ratio == pytest.approx([0.75] * 3)
    assert weights == pytest.approx([0.75] * 3)


def test_a_lower_bound_makes_a_mask_of_it() -> None:
    _, weights = weights_of([0.5, 0.9, 0.1], [0.5, 0.3, 0.4], level="token", lower=0.5)
    assert weights == pytest.approx([1.0, 0.0, 0.0])


@given(LOG_PROBS, LOG_PROBS, st.sampled_from(["token", "sequence"]), st.booleans())
def test_weights_are_finite_and_within_bounds(
    trainer: np.ndarray, sampler: np.ndarray, level: str, masked: bool
) -> None:
    config = RolloutImportanceConfig.model_validate(
        {"level": level, "threshold": 3.0, "lower": 0.2 if masked else None}
    )
    ratio, weights = importance_weights(trainer, sampler, config)
    assert np.isfinite(weights).all()
    assert ((weights >= 0) & (weights <= 3.0)).all()
    untouched = ratio == weights
    if masked:
        assert (untouched | (weights == 0)).all()
        assert (untouched == ((ratio >= 0.2) & (ratio <= 3.0))).all()
    else:
        assert (untouched | (weights == np.float32(3.0))).all()


def test_equal_log_probs_weigh_nothing() -> None:
    _, weights = weights_of([0.2, 0.7], [0.2, 0.7], level="sequence", lower=0.5)
    assert weights == [1.0, 1.0]


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"lower \(3\.0\) must be below threshold \(2\.0\)"):
        RolloutImportanceConfig(level="token", lower=3.0)
