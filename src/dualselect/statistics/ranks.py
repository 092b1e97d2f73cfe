"""Spearman's rank correlation: how far two numbers order the same samples alike."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def spearman(a: Values, b: Values) -> float:
    """Return the correlation of the ranks of `a` and `b`, `(n,)` each, equal values sharing their mean rank.

    Pairs with a number that is not finite are left out. NaN where fewer than two are left, or where either is constant.
    """
    both = np.isfinite(a) & np.isfinite(b)
    x, y = mean_ranks(a[both]), mean_ranks(b[both])
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def mean_ranks(values: Values) -> Values:
    """Return the ranks of finite numbers, `(n,)`, from 1; equal ones share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Values = (counts.cumsum() - (counts - 1) / 2)[place]
    return ranks
