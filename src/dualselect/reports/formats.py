"""Numbers in words: one way to write a value, an interval, a difference and what it shows."""

import math

from dualselect.statistics import NO_DIFFERENCE, Estimate

NO_VALUE = "–"
_MINUS = "\u2212"

#: What a verdict in words may be, by the class that colours it.
TONES = {NO_DIFFERENCE: "neutral", "better": "good", "worse": "bad", "higher": "plain", "lower": "plain"}


def value_text(value: float | None, unit: str) -> str:
    """Return a value with its unit, such as `97.2%` or `0.748`."""
    if value is None or not math.isfinite(value):
        return NO_VALUE
    scale, digits = _scale(unit, value)
    return _number(scale * value, digits) + ("%" if unit == "share" else "")


def interval_text(low: float | None, high: float | None, unit: str) -> str:
    """Return an interval without the unit's sign, such as `[86.1, 99.5]`."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return NO_VALUE
    scale, digits = _scale(unit, low, high)
    return f"[{_number(scale * low, digits)}, {_number(scale * high, digits)}]"


def difference_text(estimate: Estimate, unit: str) -> str:
    """Return a difference with its interval, such as `+80.6 pp [+66.1, +91.7]`."""
    scale, digits = _scale(unit, estimate.value, estimate.low, estimate.high)
    value = _number(scale * estimate.value, digits, signed=True) + (" pp" if unit == "share" else "")
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return value
    low, high = (_number(scale * end, digits, signed=True) for end in (estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def shown_text(estimate: Estimate, better: str, shown: bool | None = None) -> str:
    """Return what a difference shows in a word: `better`, `worse`, `higher`, `lower` or `no difference shown`.

    Args:
        estimate: the difference.
        better: which way is better.
        shown: whether a difference is shown, where more than the interval decides it; an interval that holds zero
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


def _scale(unit: str, *values: float) -> tuple[int, int]:
    """Return what to multiply by and the digits after the point: the larger a score, the fewer."""
    if unit == "share":
        return 100, 1
    size = max(abs(value) for value in values if math.isfinite(value))
    return 1, 3 if unit == "nats" or size < 10 else 1 if size < 100 else 0


def _number(value: float, digits: int, *, signed: bool = False) -> str:
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    # A rounded zero has no sign.
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", _MINUS)
