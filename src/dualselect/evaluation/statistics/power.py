"""How small a difference a test could have found.

Source: the normal approximation of the power of a two-sided test, as in J. Cohen, 'Statistical power analysis for the
behavioral sciences' (1988).
"""

import math
from statistics import NormalDist

_NORMAL = NormalDist()


def minimum_detectable_effect(
    standard_deviation: float, n: int, *, power: float = 0.8, confidence: float = 0.95
) -> float:
    """Return the smallest mean paired difference that a test of `n` pairs would find with probability `power`.

    A comparison that shows no difference says only that there is hardly one larger than this.

    Args:
        standard_deviation: of the paired differences.
        n: number of pairs.
        power: chance of finding a difference of that size.
        confidence: of the two-sided test.

    Raises:
        ValueError: fewer than one pair, or a probability outside (0, 1).
    """
    if n < 1 or not 0 < power < 1 or not 0 < confidence < 1 or standard_deviation < 0:
        raise ValueError(f"no effect can be computed for n={n}, power={power}, confidence={confidence}")
    points = _NORMAL.inv_cdf((1 + confidence) / 2) + _NORMAL.inv_cdf(power)
    return points * standard_deviation / math.sqrt(n)
