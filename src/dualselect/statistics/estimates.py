"""A measured value with its interval and counts, and the interval of a proportion.

Source: E. B. Wilson, 'Probable inference, the law of succession, and statistical inference' (1927).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval and the counts that it rests on.

    Attributes:
        value: The estimate.
        low: Lower end of its interval; NaN where there is no interval.
        high: Upper end of its interval; NaN where there is no interval.
        n: Number of prompts.
        seeds: Number of training seeds.
        is_difference: Whether it compares two models, so that an interval that contains zero shows nothing.
        p_value: Two-sided p-value of no difference; None where none was computed.
        missing: Number of pairs left out because one of the two had no value.
    """

    value: float
    low: float
    high: float
    n: int
    seeds: int = 1
    is_difference: bool = False
    p_value: float | None = None
    missing: int = 0

    @property
    def holds_zero(self) -> bool:
        """Whether the interval contains zero; true also without an interval."""
        return not (self.low > 0 or self.high < 0)

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval; a single prompt has none."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of a proportion; it has a width at 0% and 100% too.

    With no observations at all the interval is (0, 1).

    Raises:
        ValueError: `successes` is outside 0..`total`, or `confidence` outside (0, 1).
    """
    if not 0 <= successes <= total or not 0 < confidence < 1:
        raise ValueError(f"wilson_interval({successes}, {total}, {confidence}) is not defined")
    if total == 0:
        return 0.0, 1.0
    z2 = _NORMAL.inv_cdf((1 + confidence) / 2) ** 2
    rate = successes / total
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (rate * (1 - rate) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    # Rounding must not put the bound slightly past the rate at the ends, where the two are equal.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high
