"""What a measured value comes with, and the interval of a proportion.

Source: E. B. Wilson, 'Probable inference, the law of succession, and statistical inference' (1927).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

NO_DIFFERENCE = "no difference shown"

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A measured value with what it takes to judge it.

    Attributes:
        value: the estimate.
        low: lower end of its interval.
        high: upper end of its interval.
        n: prompts that it rests on.
        seeds: training seeds that it rests on.
        is_difference: whether it compares two models, so that an interval that holds zero shows nothing.
        p_value: two-sided, of no difference; None where none was computed.
        missing: pairs left out since one of the two had no value.
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
        """Whether zero lies in the interval; also where there is no interval."""
        return not (self.low > 0 or self.high < 0)

    def render(self, *, scale: float = 1.0, digits: int = 3) -> str:
        """Return value, interval, n and seeds as text, such as `+4.2 [+1.0, +7.3] (n=200, seeds=3)`.

        Args:
            scale: factor of value and interval; 100 gives percent.
            digits: decimal places.
        """
        sign = "+" if self.is_difference else ""
        value, low, high = (f"{scale * number:{sign}.{digits}f}" for number in (self.value, self.low, self.high))
        remarks = [f"n={self.n}", f"seeds={self.seeds}"]
        if self.missing:
            remarks.append(f"{self.missing} without a value")
        if self.is_difference and self.holds_zero:
            remarks.append(NO_DIFFERENCE)
        return f"{value} [{low}, {high}] ({', '.join(remarks)})"

    def __str__(self) -> str:
        return self.render()


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
    z2 = _NORMAL.inv_cdf((1 + confidence) / 2) ** 2
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

    @property
    def estimate(self) -> Estimate:
        """The share with its interval, for one seed."""
        return Estimate(self.rate, *self.interval, n=self.total)
