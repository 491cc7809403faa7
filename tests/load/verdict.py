"""Whether what was measured is flat: a line through the time after the warm-up.

The line is that of least squares, so that a single sample, or the moment at which the last one was
taken, decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

WARM_UP = 0.2
"""Share of the time in which caches and pools may fill."""
FEWEST_SAMPLES = 10
"""After the warm-up; a line through fewer says nothing."""


@dataclass(frozen=True, slots=True)
class Trend:
    """A line through the values after the warm-up."""

    start: float
    """Where it begins, when the warm-up is over."""
    end: float
    """Where it stands at the last sample."""

    @property
    def growth(self) -> float:
        """(end − start) / start; negative when it falls."""
        return (self.end - self.start) / self.start

    @property
    def drift(self) -> float:
        """|end − start|."""
        return abs(self.end - self.start)


def fit_trend(seconds: ArrayLike, values: ArrayLike, warm_up: float = WARM_UP) -> Trend:
    """The line of least squares through the values after the warm-up.

    Args:
        seconds: when the values were taken, rising.
        values: as many, all above 0.
        warm_up: share of the time that is left out at the beginning.

    Raises:
        ValueError: fewer than `FEWEST_SAMPLES` are left.
    """
    times = np.asarray(seconds, dtype=np.float64)
    begin = times[0] + warm_up * (times[-1] - times[0])
    kept = times >= begin
    if kept.sum() < FEWEST_SAMPLES:
        raise ValueError(
            f"{kept.sum()} samples after the warm-up of {begin - times[0]:.0f} s, at least "
            f"{FEWEST_SAMPLES} are needed: let the soak run longer"
        )
    line = np.polynomial.Polynomial.fit(times[kept], np.asarray(values, np.float64)[kept], 1)
    return Trend(start=float(line(begin)), end=float(line(times[-1])))


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Values as a row of blocks, each the mean of an equal share of them; the lowest of these is
    the lowest block, the highest the highest. Values that are all alike are in the middle."""
    means = [float(part.mean()) for part in np.array_split(np.asarray(values), width) if len(part)]
    blocks = "▁▂▃▄▅▆▇█"
    low, high = min(means), max(means)
    if high == low:
        return blocks[3] * len(means)
    return "".join(blocks[round((mean - low) / (high - low) * (len(blocks) - 1))] for mean in means)
