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
    if n < 1 or standard_deviation < 0:
        raise ValueError(f"no effect can be computed for n={n}, standard_deviation={standard_deviation}")
    degrees = n - 1 if 1 < n <= FEW_PROMPTS else math.inf
    return detectable_difference(standard_deviation / math.sqrt(n), degrees, power=power, confidence=confidence)


def detectable_difference(
    standard_error: float, degrees: float = math.inf, *, power: float = 0.8, confidence: float = 0.95
) -> float:
    """Return the smallest difference that a test would find with probability `power`: 2.8 standard errors by default.

    Args:
        standard_error: Standard error of the difference, whatever it comes from: prompts, seeds or both.
        degrees: Degrees of freedom of the standard error; infinite for the normal approximation.
        power: Chance of finding a difference of that size.
        confidence: Confidence of the two-sided test.

    Raises:
        ValueError: A power outside (0.5, 1), or a confidence outside (0, 1).
    """
    if not 0.5 < power < 1 or not 0 < confidence < 1:
        raise ValueError(f"no effect can be computed for power={power}, confidence={confidence}")
    if math.isinf(degrees):
        points = _NORMAL.inv_cdf((1 + confidence) / 2) + _NORMAL.inv_cdf(power)
    else:
        points = t_quantile(confidence, degrees) + t_quantile(2 * power - 1, degrees)
    return points * standard_error
