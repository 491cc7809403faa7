"""How soon a full queue has room again, as far as its own pace tells."""

from services.queue.records import QueueSettings

PERIOD_SECONDS = 10.0
"""Claimed tokens are counted in periods of this length."""
SHARE = 10
"""A refused client comes back when one part in so many of the tokens that wait were claimed."""


class DrainRate:
    """Tokens claimed in this period and in the one before."""

    def __init__(self) -> None:
        self._period = 0
        self._now = self._before = 0

    def add(self, tokens: int, now: float) -> None:
        """Counts a claim at a time in seconds."""
        self._turn(now)
        self._now += tokens

    def _turn(self, now: float) -> None:
        period = int(now // PERIOD_SECONDS)
        if period != self._period:
            self._before = self._now if period == self._period + 1 else 0
            self._now, self._period = 0, period

    def retry_after(self, tokens: int, now: float, settings: QueueSettings) -> float:
        """Seconds until a share of so many waiting tokens will have been claimed.

        At least `retry_after` and at most `max_retry_after`, which it is when nothing was claimed.
        """
        self._turn(now)
        claimed = self._now + self._before
        if claimed == 0:
            return settings.max_retry_after
        rate = claimed / (PERIOD_SECONDS + now % PERIOD_SECONDS)
        seconds = tokens / SHARE / rate
        return min(max(seconds, settings.retry_after), settings.max_retry_after)
