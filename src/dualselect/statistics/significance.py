"""Significance of differences: many comparisons at once, and the smallest difference that a test could have found.

Sources: S. Holm, 'A simple sequentially rejective multiple test procedure' (1979); for the power of a two-sided test,
the normal approximation as in J. Cohen, 'Statistical power analysis for the behavioral sciences' (1988), with
Student's t for few pairs.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

from dualselect.statistics.bootstrap import FEW_PROMPTS
from dualselect.statistics.student import t_quantile

_NORMAL = NormalDist()


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given; reject at level α where one is at most α.

    Raises:
        ValueError: A p-value is outside [0, 1].
    """
    if not all(0 <= value <= 1 for value in p_values):
        raise ValueError(f"p-values are {list(p_values)}; give numbers in [0, 1]")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def minimum_detectable_effect(
    standard_deviation: float, n: int, *, power: float = 0.8, confidence: float = 0.95
) -> float:
    """Return the smallest mean paired difference that a test of `n` pairs would find with probability `power`.

    A comparison that shows no difference says only that one larger than this is unlikely.

    Args:
        standard_deviation: Standard deviation of the paired differences.
        n: Number of pairs.
        power: Chance of finding a difference of that size.
        confidence: Confidence of the two-sided test.

    Raises:
        ValueError: Fewer than one pair, a power outside (0.5, 1), or a confidence outside (0, 1).
    """
    if n < 1 or not 0.5 < power < 1 or not 0 < confidence < 1 or standard_deviation < 0:
        raise ValueError(f"no effect can be computed for n={n}, power={power}, confidence={confidence}")
    if 1 < n <= FEW_PROMPTS:
        points = t_quantile(confidence, n - 1) + t_quantile(2 * power - 1, n - 1)
    else:
        points = _NORMAL.inv_cdf((1 + confidence) / 2) + _NORMAL.inv_cdf(power)
    return points * standard_deviation / math.sqrt(n)
