"""Retry hints: they follow the pace of the last two periods, within their bounds."""

import pytest

from services.queue.backlog import PERIOD_SECONDS, DrainRate
from services.queue.records import QueueSettings

SETTINGS = QueueSettings(retry_after=0.5, max_retry_after=60.0)


def test_the_hint_grows_with_what_waits_and_shrinks_with_the_pace() -> None:
    slow, fast = DrainRate(), DrainRate()
    for second in range(20):
        slow.add(100, float(second))
        fast.add(1000, float(second))
    # 20 s of 100 tokens a second; a tenth of what waits.
    assert slow.retry_after(10_000, 19.999, SETTINGS) == pytest.approx(10.0, rel=0.01)
    assert slow.retry_after(20_000, 19.999, SETTINGS) == pytest.approx(20.0, rel=0.01)
    assert fast.retry_after(20_000, 19.999, SETTINGS) == pytest.approx(2.0, rel=0.01)


def test_the_hint_stays_within_its_bounds() -> None:
    rate = DrainRate()
    assert rate.retry_after(10, 0.0, SETTINGS) == 60.0
    rate.add(1000, 1.0)
    assert rate.retry_after(0, 1.0, SETTINGS) == 0.5
    assert rate.retry_after(10**9, 1.0, SETTINGS) == 60.0


def test_a_pace_is_forgotten_after_two_periods() -> None:
    rate = DrainRate()
    rate.add(1000, 1.0)
    assert rate.retry_after(1000, 2 * PERIOD_SECONDS - 0.1, SETTINGS) < 60.0
    assert rate.retry_after(1000, 2 * PERIOD_SECONDS, SETTINGS) == 60.0
