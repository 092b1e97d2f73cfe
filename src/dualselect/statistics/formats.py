"""Numbers as text: the one way in which values, intervals, differences and p-values are written everywhere.

The minus sign is the ASCII one, so that programs can read tables; a page may replace it.
"""

import math

from dualselect.statistics.estimates import Estimate

NO_VALUE = "–"
NO_DIFFERENCE = "no difference shown"


def value_text(value: float | None, unit: str) -> str:
    """Return a value with its unit, such as `97.2%` for a share or `0.748` for nats."""
    if value is None or not math.isfinite(value):
        return NO_VALUE
    scale, digits = _scale(unit, value)
    return number_text(scale * value, digits) + ("%" if unit == "share" else "")


def interval_text(low: float | None, high: float | None, unit: str, *, signed: bool = False) -> str:
    """Return an interval without the unit's sign, such as `[86.1, 99.5]`."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return NO_VALUE
    scale, digits = _scale(unit, low, high)
    return f"[{number_text(scale * low, digits, signed=signed)}, {number_text(scale * high, digits, signed=signed)}]"


def points_text(difference: float, unit: str) -> str:
    """Return a difference without its interval, such as `+80.6 pp`."""
    scale, digits = _scale(unit, difference)
    return number_text(scale * difference, digits, signed=True) + (" pp" if unit == "share" else "")


def difference_text(estimate: Estimate, unit: str) -> str:
    """Return a difference with its interval, such as `+80.6 pp [+66.1, +91.7]`."""
    scale, digits = _scale(unit, estimate.value, estimate.low, estimate.high)
    value = number_text(scale * estimate.value, digits, signed=True) + (" pp" if unit == "share" else "")
    if not estimate.has_interval:
        return value
    low, high = (number_text(scale * end, digits, signed=True) for end in (estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def estimate_text(estimate: Estimate, unit: str) -> str:
    """Return an estimate with its interval and counts, such as `+4.2 pp [+1.0, +7.3] (n=200, seeds=3)`."""
    if estimate.is_difference:
        text = difference_text(estimate, unit)
    else:
        interval = interval_text(estimate.low, estimate.high, unit)
        text = value_text(estimate.value, unit) + ("" if interval == NO_VALUE else f" {interval}")
    remarks = [f"n={estimate.n}", f"seeds={estimate.seeds}"]
    if not estimate.has_interval:
        remarks.append(no_interval_text(estimate))
    if estimate.missing:
        remarks.append(missing_text(estimate))
    if estimate.is_difference and estimate.holds_zero:
        remarks.append(NO_DIFFERENCE)
    return f"{text} ({', '.join(remarks)})"


def missing_text(estimate: Estimate) -> str:
    """Return how many prompts have no value."""
    return f"{estimate.missing} without a value"


def no_interval_text(estimate: Estimate) -> str:
    """Return why an estimate has no interval."""
    return "no interval: one prompt" if estimate.n == 1 else "no interval: equal values"


def direction_text(estimate: Estimate, better: str, shown: bool | None = None) -> str:
    """Return what a difference shows, as a word: `better`, `worse`, `higher`, `lower` or `no difference shown`.

    Args:
        estimate: The difference.
        better: Direction that is better: `higher`, `lower` or `neither`.
        shown: Whether a difference is shown, where more than the interval decides; an interval that contains zero
            shows none in any case.
    """
    if estimate.holds_zero or shown is False:
        return NO_DIFFERENCE
    is_higher = estimate.value > 0
    if better == "neither":
        return "higher" if is_higher else "lower"
    return "better" if is_higher == (better == "higher") else "worse"


def p_text(value: float | None) -> str:
    """Return a p-value with three digits."""
    if value is None or not math.isfinite(value):
        return NO_VALUE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def number_text(value: float, digits: int, *, signed: bool = False) -> str:
    """Return a number with the given digits after the point; a rounded zero has no sign."""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text


def _scale(unit: str, *values: float) -> tuple[int, int]:
    """Return the factor and the digits after the point: the larger a score, the fewer digits."""
    if unit == "share":
        return 100, 1
    size = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 1, 3 if unit == "nats" or size < 10 else 1 if size < 100 else 0
