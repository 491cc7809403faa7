"""Estimates over problems with confidence intervals: mean@n, pass@k, and paired differences.

Problems are the independent units: samples of one problem resemble each other, so that n samples of
N problems tell less than n·N problems would (Miller, "Adding error bars to evals", arXiv
2411.00640).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and how sure it is."""

    value: float
    """The mean."""
    stderr: float | None
    """Its standard error; None for a single problem, which tells nothing of others."""
    low: float
    """Lower end of the confidence interval."""
    high: float
    """Upper end of the confidence interval."""


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Probability that one of k samples is right, from `correct` right ones of `samples` ≥ k.

    The unbiased estimator 1 − C(n − c, k) / C(n, k) of Chen et al., arXiv 2107.03374, equation 1.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples: k must be 1 to {samples}")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def estimate_share(values: Sequence[float], draws: int, confidence: float) -> Estimate:
    """The mean of one share a problem, with Wilson's interval for clustered samples.

    Wilson's score interval at the effective sample size p(1 − p) / stderr², with Student's t on
    N − 1 degrees of freedom in place of the normal quantile (Korn and Graubard 1998; Dean and
    Pagano, "Evaluating confidence interval methods for binomial proportions in clustered surveys",
    2015). Unlike a normal or a bootstrap interval it stays within 0 to 1, and it has a width when
    all problems came out alike.

    Args:
        values: share of each of N problems, 0 to 1.
        draws: independent draws behind each share: the effective sample size is at most `draws`·N.
        confidence: for example 0.95.
    """
    shares = np.asarray(values, dtype=np.float64)
    count, mean = len(shares), float(shares.mean())
    if count == 1:
        return Estimate(mean, None, 0.0, 1.0)
    stderr = float(shares.std(ddof=1)) / sqrt(count)
    most = float(draws * count)
    size = min(most, mean * (1 - mean) / stderr**2) if stderr > 0 else most
    if mean in (0.0, 1.0):
        size = float(count)  # every problem came out alike: count each of them once
    t = _t_quantile(confidence, count - 1)
    centre = (mean + t**2 / (2 * size)) / (1 + t**2 / size)
    half = t * sqrt(mean * (1 - mean) / size + t**2 / (4 * size**2)) / (1 + t**2 / size)
    return Estimate(mean, stderr, max(0.0, centre - half), min(1.0, centre + half))


def estimate_difference(
    before: Sequence[float], after: Sequence[float], confidence: float
) -> Estimate:
    """The mean change from `before` to `after`, with the paired t interval.

    Pairing by problem removes what makes problems easy or hard from the error (Miller,
    section 4.2). Where all N problems changed alike, which gives t no width, the interval is as
    wide as the share of problems that may do otherwise when none of N did.

    Args:
        before: share of each of N problems.
        after: shares of the same problems, in the same order.
        confidence: for example 0.95.
    """
    changes: NDArray[np.float64] = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    count, mean = len(changes), float(changes.mean())
    if count == 1:
        return Estimate(mean, None, -1.0, 1.0)
    stderr = float(changes.std(ddof=1)) / sqrt(count)
    half = _t_quantile(confidence, count - 1) * stderr
    if stderr == 0:
        half = estimate_share([0.0] * count, 1, confidence).high
    return Estimate(mean, stderr, max(-1.0, mean - half), min(1.0, mean + half))


def _t_quantile(confidence: float, freedom: int) -> float:
    return float(stdtrit(freedom, 0.5 + confidence / 2))
