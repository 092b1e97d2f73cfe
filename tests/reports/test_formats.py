import math

import pytest

from dualselect.reports.formats import difference_text, interval_text, p_text, shown_text, value_text
from dualselect.statistics import Estimate


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.9722, "share", "97.2%"), (1.0, "share", "100.0%"), (-0.25, "score", "−0.250"), (0.74789, "nats", "0.748")],
)
def test_values_carry_their_unit(value, unit, text):
    assert value_text(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.2345, "1.234"), (12.345, "12.3"), (412.345, "412"), (-412.345, "−412"), (0.0, "0.000")]
)
def test_scores_have_fewer_digits_the_larger_they_are(value, text):
    assert value_text(value, "score") == text


def test_both_ends_of_an_interval_have_the_digits_of_the_larger():
    assert interval_text(9.876, 102.345, "score") == "[10, 102]"
    assert difference_text(Estimate(5.25, -2.0, 12.5, n=9), "score") == "+5.2 [−2.0, +12.5]"
    assert interval_text(12.3456, 102.3456, "nats") == "[12.346, 102.346]"


def test_what_is_not_there_is_a_dash():
    assert value_text(None, "share") == value_text(math.nan, "nats") == interval_text(None, 1.0, "share") == "–"


def test_differences_of_shares_are_percentage_points_with_signs():
    assert difference_text(Estimate(0.8056, -0.02, 0.917, n=36), "share") == "+80.6 pp [−2.0, +91.7]"


def test_a_difference_that_rounds_to_zero_has_no_sign():
    assert difference_text(Estimate(-0.0001, -0.1, 0.1, n=9), "share").startswith("0.0 pp")


@pytest.mark.parametrize(
    ("low", "high", "better", "word"),
    [
        (0.1, 0.3, "higher", "better"),
        (0.1, 0.3, "lower", "worse"),
        (-0.3, -0.1, "lower", "better"),
        (-0.3, -0.1, "higher", "worse"),
        (-0.3, -0.1, "neither", "lower"),
        (0.0, 0.3, "higher", "no difference shown"),
        (-0.1, 0.3, "lower", "no difference shown"),
        (math.nan, math.nan, "higher", "no difference shown"),
    ],
)
def test_only_an_interval_without_zero_shows_a_difference(low, high, better, word):
    value = 0.2 if math.isnan(low) else (low + high) / 2
    assert shown_text(Estimate(value, low, high, n=9), better) == word


def test_what_a_correction_took_back_is_not_shown():
    assert shown_text(Estimate(0.2, 0.1, 0.3, n=9), "higher", shown=False) == "no difference shown"


def test_small_p_values_are_bounds():
    assert (p_text(0.0004), p_text(0.06), p_text(None)) == ("< 0.001", "0.060", "–")
