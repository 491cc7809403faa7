from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.evaluation.estimates import (
    estimate_difference,
    estimate_share,
    pass_at_k,
)


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample(n: int, data: st.DataObject) -> None:
    correct, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(combinations([index < correct for index in range(n)], k))
    assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_needs_k_samples() -> None:
    with pytest.raises(ValueError, match="k must be 1 to 4"):
        pass_at_k(4, 2, 5)


def test_one_sample_of_each_problem_gives_wilsons_interval() -> None:
    estimate = estimate_share([1.0] * 30 + [0.0] * 20, draws=1, confidence=0.95)
    assert estimate.value == pytest.approx(0.6)
    assert estimate.stderr == pytest.approx((0.6 * 0.4 / 49) ** 0.5)
    # Wilson's interval of 30 of 50 is 0.462 to 0.724; t and the n − 1 widen it a little.
    assert estimate.low == pytest.approx(0.457, abs=0.002)
    assert estimate.high == pytest.approx(0.728, abs=0.002)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=2, max_size=40))
def test_intervals_hold_the_mean_and_stay_within_0_and_1(shares: list[float]) -> None:
    estimate = estimate_share(shares, draws=4, confidence=0.9)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.high - estimate.low > 0.01
    wider = estimate_share(shares, draws=4, confidence=0.99)
    assert wider.low <= estimate.low
    assert wider.high >= estimate.high


def test_a_single_problem_tells_nothing_of_others() -> None:
    estimate = estimate_share([0.75], draws=4, confidence=0.95)
    assert (estimate.value, estimate.stderr, estimate.low, estimate.high) == (0.75, None, 0.0, 1.0)


@pytest.mark.parametrize(("problems", "samples"), [(30, 12), (30, 1), (200, 4)])
def test_intervals_hold_the_truth_as_often_as_they_say(problems: int, samples: int) -> None:
    random = np.random.default_rng(0)
    trials, truth = 2000, 0.75
    # Problems of very different difficulty: most are nearly always or nearly never solved.
    difficulty = random.beta(0.9, 0.3, size=(trials, problems))
    shares = random.binomial(samples, difficulty) / samples
    intervals = [estimate_share(row, samples, 0.95) for row in shares]
    held = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.935 < held < 0.975


def test_pairing_sees_a_small_gain_that_separate_intervals_do_not() -> None:
    random = np.random.default_rng(1)
    before = random.uniform(0, 0.9, size=60)
    after = before + 0.05 + random.normal(0, 0.02, size=60)
    change = estimate_difference(before, after, 0.95)
    assert change.low > 0
    assert change.value == pytest.approx((after - before).mean())
    apart = [estimate_share(shares, 12, 0.95) for shares in (before, after)]
    assert apart[0].high > apart[1].low


def test_differences_of_no_change_and_of_one_problem() -> None:
    same = estimate_difference([0.5] * 50, [0.5] * 50, 0.95)
    assert (same.value, same.stderr) == (0.0, 0.0)
    assert same.low == -same.high
    assert 0.05 < same.high < 0.1  # of 50 problems without a change, 7% may still be ones with it
    single = estimate_difference([0.5], [1.0], 0.95)
    assert (single.value, single.stderr, single.low, single.high) == (0.5, None, -1.0, 1.0)
