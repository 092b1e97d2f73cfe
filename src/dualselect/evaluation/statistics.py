"""Intervals for measured proportions."""

import math
from dataclasses import dataclass
from statistics import NormalDist


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval (low, high) of a proportion; it has a width at 0% and 100% too.

    With no observations at all the interval is (0, 1).

    Raises:
        ValueError: `successes` lies outside 0..`total`, or `confidence` outside (0, 1).
    """
    if not 0 <= successes <= total or not 0 < confidence < 1:
        raise ValueError(f"wilson_interval({successes}, {total}, {confidence}) is not defined")
    if total == 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    rate = successes / total
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = math.sqrt(z2 * (rate * (1 - rate) / total + z2 / (4 * total**2))) / (1 + z2 / total)
    # Rounding must not put the bound a hair past the rate at the ends, where the two are equal.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True)
class Proportion:
    """A count out of a total."""

    successes: int
    total: int

    @property
    def rate(self) -> float:
        """The share in [0, 1], NaN where nothing was counted."""
        return self.successes / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval (low, high)."""
        return wilson_interval(self.successes, self.total)
