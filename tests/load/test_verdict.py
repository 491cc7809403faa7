"""Unit tests of the line through samples and of the bounds on it."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.queue.records import RunStats
from tests.load.report import Report, Verified
from tests.load.samples import MIB, RedisSample, Sample
from tests.load.trainer import Sent
from tests.load.verdict import Trend, fit_trend, sparkline

SECONDS = np.arange(200.0)


def test_a_line_is_found_exactly() -> None:
    trend = fit_trend(SECONDS, 100 + SECONDS)
    assert trend.start == pytest.approx(100 + 0.2 * 199)
    assert trend.end == pytest.approx(299)
    assert trend.growth == pytest.approx((299 - 139.8) / 139.8)
    assert trend.drift == pytest.approx(299 - 139.8)


def test_what_happens_in_the_warm_up_does_not_count() -> None:
    values = np.where(SECONDS < 0.2 * 199, 10 * SECONDS, 500.0)
    trend = fit_trend(SECONDS, values)
    assert trend.start == pytest.approx(500)
    assert trend.growth == pytest.approx(0, abs=1e-9)


def test_saw_teeth_and_noise_are_flat_and_a_slow_leak_among_them_is_found() -> None:
    teeth = 100.0 + SECONDS % 10 + np.random.default_rng(0).normal(0, 3, len(SECONDS))
    assert abs(fit_trend(SECONDS, teeth).growth) < 0.03
    leak = teeth + 0.1 * SECONDS
    assert fit_trend(SECONDS, leak).growth == pytest.approx(16 / 112, abs=0.03)


def test_the_moments_of_the_samples_need_not_be_even() -> None:
    seconds = np.sort(np.random.default_rng(1).uniform(0, 100, 300))
    trend = fit_trend(seconds, 50 + 2 * seconds)
    assert trend.end == pytest.approx(50 + 2 * seconds[-1])


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 10"):
        fit_trend([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])


def test_the_least_squares_are_those_of_the_normal_equations() -> None:
    values = np.random.default_rng(2).uniform(90, 110, len(SECONDS))
    kept = SECONDS >= 0.2 * 199
    x, y = SECONDS[kept], values[kept]
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    trend = fit_trend(SECONDS, values)
    assert trend.end - trend.start == pytest.approx(slope * (199 - 0.2 * 199))


def test_sparklines() -> None:
    assert sparkline(list(range(8)), width=8) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0] * 40, width=4) == "▄▄▄▄"
    assert sparkline([1.0, 2.0], width=24) == "▁█"


def report(leak: float = 0.0, fds_a_second: float = 0.0, **sent: Any) -> Report:
    """A report of one run whose services lose `leak` MiB a second of 100."""
    samples = [
        Sample(
            seconds=second,
            process="services",
            rss=round((100 + leak * second) * MIB),
            pss=80 * MIB,
            fds=round(20 + fds_a_second * second),
            threads=9,
        )
        for second in SECONDS.tolist()
    ]
    redis = [RedisSample(second, 10 * MIB, 400) for second in SECONDS.tolist()]
    run = Sent(jobs=10, calls=12, tokens=1000, ends=Counter(result=8, cancelled=1, refused=1))
    account = RunStats("load-0", done=8, cancelled=1, tokens_computed=1000)
    return Report(
        hours=1.0,
        seconds=199.0,
        sent=[replace(run, **sent)],
        accounts=[account],
        verified=Verified(2, 3000, 2e-6),
        samples=samples,
        redis=redis,
        left_over=[],
        exit_codes={"services": 0, "teacher": 0},
    )


def test_flat_memory_and_accounts_that_add_up_pass() -> None:
    assert report().broken() == []


def test_a_leak_breaks_the_bound_and_names_the_process() -> None:
    # 6% between the end of the warm-up (40 s) and the end (199 s), then 4%.
    (broken,) = report(leak=6 / 159).broken()
    assert broken.startswith("services: memory grew by 5.9%, 101.5 to 107.5 MiB")
    assert report(leak=4 / 159).broken() == []


def test_keys_that_stay_in_redis_are_told() -> None:
    (broken,) = replace(report(), left_over=["job:load-0/1", "stream:0:load-0"]).broken()
    assert broken == "2 keys are left in Redis: ['job:load-0/1', 'stream:0:load-0']"


def test_file_descriptors_that_stay_open_break_the_bound() -> None:
    (broken,) = report(fds_a_second=0.1).broken()
    assert broken.startswith("services: file descriptors went from 24")


def test_memory_that_falls_is_no_leak() -> None:
    assert report(leak=-0.2).broken() == []


@pytest.mark.parametrize(
    ("sent", "broken"),
    [
        ({"ends": Counter(result=8, cancelled=1, lost=1)}, "1 jobs without an outcome"),
        ({"ends": Counter(result=8, cancelled=1)}, "10 jobs sent, 9 outcomes"),
        ({"jobs": 11}, "10 jobs accepted, the queue ended 9"),
        ({"ends": Counter(result=9, refused=1)}, "1 jobs cancelled in the queue"),
        ({"wrong": ["load-0/3: two results"]}, "two results"),
    ],
)
def test_what_is_lost_or_wrong_is_told(sent: dict[str, Any], broken: str) -> None:
    assert any(broken in found for found in report(**sent).broken())


@pytest.mark.parametrize("change", [{"done": 7}, {"done": 9}, {"dead": 1}, {"claimed": 1}])
def test_accounts_that_do_not_add_up_are_told(change: dict[str, Any]) -> None:
    good = report()
    wrong = replace(good, accounts=[replace(good.accounts[0], **change)])
    assert wrong.broken()


@pytest.mark.parametrize("difference", [1e-3, float("nan")])
def test_a_score_that_differs_is_told(difference: float) -> None:
    wrong = replace(report(), verified=Verified(2, 3000, difference))
    (broken,) = wrong.broken()
    assert "differs" in broken


def test_a_process_that_does_not_end_in_order_is_told() -> None:
    (broken,) = replace(report(), exit_codes={"teacher": -9}).broken()
    assert broken == "teacher ended with -9"


def test_growth_of_a_trend() -> None:
    assert Trend(200.0, 190.0).growth == pytest.approx(-0.05)
    assert Trend(200.0, 190.0).drift == 10
