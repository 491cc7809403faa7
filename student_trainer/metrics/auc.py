"""Area under the ROC curve, as a rank statistic."""

import numpy as np
from numpy.typing import NDArray


def auc(scores: NDArray[np.floating], labels: NDArray[np.bool_]) -> float:
    """The probability that a positive scores above a negative, ties counting one half (Mann and
    Whitney, 1947).

    Args:
        scores: `[N]`, none of them NaN.
        labels: bool `[N]`: the positives.

    Raises:
        ValueError: there are no positives, or no negatives.
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        raise ValueError(f"an AUC needs both labels, not {positives} of {len(labels)} positive")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # equal scores share their mean rank
    above = ranks[place][labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))
