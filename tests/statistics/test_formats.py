import math

import pytest

from dualselect.statistics import Estimate
from dualselect.statistics.formats import (
    NO_VALUE,
    difference_text,
    direction_text,
    estimate_text,
    interval_text,
    p_text,
    points_text,
    value_text,
)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9721, "share", "97.2%"),
        (1.0, "share", "100.0%"),
        (0.74849, "nats", "0.748"),
        (123.456, "nats", "123.456"),
        (3.14159, "score", "3.142"),
        (42.42, "score", "42.4"),
        (312.03, "score", "312"),
        (-0.0001, "share", "0.0%"),
        (None, "share", NO_VALUE),
        (math.nan, "nats", NO_VALUE),
    ],
)
def test_values(value, unit, text):
    assert value_text(value, unit) == text


def test_intervals_leave_the_unit_to_the_value():
    assert interval_text(0.861, 0.995, "share") == "[86.1, 99.5]"
    assert interval_text(-0.047, 0.25, "share", signed=True) == "[-4.7, +25.0]"
    assert interval_text(math.nan, math.nan, "nats") == interval_text(None, 1.0, "nats") == NO_VALUE


def test_differences_are_signed_points():
    found = Estimate(0.806, 0.661, 0.917, n=36, is_difference=True)
    assert difference_text(found, "share") == "+80.6 pp [+66.1, +91.7]"
    assert points_text(-0.15, "nats") == "-0.150"
    assert points_text(-0.00001, "share") == "0.0 pp"
    assert difference_text(Estimate(1.5, math.nan, math.nan, n=1, is_difference=True), "nats") == "+1.500"


def test_an_estimate_says_what_it_rests_on():
    assert estimate_text(Estimate(0.5, 0.25, 0.75, n=4, seeds=2), "share") == "50.0% [25.0, 75.0] (n=4, seeds=2)"
    lost = Estimate(-0.02, -0.1, 0.06, n=9, is_difference=True, missing=3)
    assert estimate_text(lost, "share") == (
        "-2.0 pp [-10.0, +6.0] (n=9, seeds=1, 3 without a value, no difference shown)"
    )
    alone = Estimate(-0.241, math.nan, math.nan, n=1, is_difference=True)
    assert estimate_text(alone, "nats") == "-0.241 (n=1, seeds=1, no interval: one prompt, no difference shown)"
    equal = Estimate(2.0, math.nan, math.nan, n=3)
    assert estimate_text(equal, "score") == "2.000 (n=3, seeds=1, no interval: equal values)"


@pytest.mark.parametrize(
    ("low", "high", "better", "shown", "word"),
    [
        (0.1, 0.3, "higher", None, "better"),
        (0.1, 0.3, "lower", None, "worse"),
        (-0.3, -0.1, "lower", True, "better"),
        (-0.3, -0.1, "higher", None, "worse"),
        (0.1, 0.3, "neither", None, "higher"),
        (-0.3, -0.1, "neither", None, "lower"),
        (-0.1, 0.3, "higher", True, "no difference shown"),
        (0.1, 0.3, "higher", False, "no difference shown"),
        (math.nan, math.nan, "higher", True, "no difference shown"),
    ],
)
def test_a_difference_in_a_word(low, high, better, shown, word):
    estimate = Estimate((low + high) / 2, low, high, n=9, is_difference=True)
    assert direction_text(estimate, better, shown) == word


def test_p_values():
    assert [p_text(value) for value in (0.0004, 0.0499, 1.0, None)] == ["< 0.001", "0.050", "1.000", NO_VALUE]
