"""Student's t distribution, for intervals over so few prompts that resampling gives too narrow ones.

Source: Student, 'The probable error of a mean' (1908); the degrees of freedom of a sum of variances are those of
F. E. Satterthwaite, 'An approximate distribution of estimates of variance components' (1946).
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(64)


def standard_error(table: Array) -> tuple[float, float]:
    """Return the standard error of the mean of a table and its degrees of freedom; NaN where one cannot be computed.

    The variances of the means of prompts and of the means of seeds are added. With scatter between prompts alone
    that counts it twice, so it errs on the wide side for several seeds; for one seed it is exact.

    Args:
        table: Values of shape (seeds, prompts); NaN where there is no value.
    """
    table = table[~np.isnan(table).all(1)][:, ~np.isnan(table).all(0)]
    parts = []  # (variance of the mean, degrees of freedom) of prompts and of seeds
    for means in (np.nanmean(table, 0), np.nanmean(table, 1)):
        if len(means) > 1:
            parts.append((float(means.var(ddof=1)) / len(means), len(means) - 1))
    total = sum(variance for variance, _ in parts)
    if table.shape[1] < 2 or total == 0:
        return math.nan, math.nan
    return math.sqrt(total), total**2 / sum(variance**2 / degrees for variance, degrees in parts)


def t_tail(t: float, degrees: float) -> float:
    """Return the two-sided p-value of `t`, P(|T| >= |t|)."""
    return 1 - _central(abs(t), degrees)


@lru_cache(maxsize=256)
def t_quantile(confidence: float, degrees: float) -> float:
    """Return the t with P(|T| <= t) = `confidence`."""
    low, high = 0.0, 1.0
    while _central(high, degrees) < confidence:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, degrees) < confidence else (low, middle)
    return (low + high) / 2


def _central(t: float, degrees: float) -> float:
    """Return P(|T| <= t): with t = sqrt(degrees) tan(angle), the density is a power of the angle's cosine."""
    reach = math.atan(t / math.sqrt(degrees))
    angles = reach * (_NODES + 1) / 2
    area = float((_NODE_WEIGHTS * np.cos(angles) ** (degrees - 1)).sum()) * reach / 2
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi) / 2
    return min(1.0, 2 * math.exp(scale) * area)
