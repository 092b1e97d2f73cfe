import math

import pytest

from dualselect.reports.formats import finding, tone, typeset
from dualselect.runs.estimates import Difference
from dualselect.runs.results import Metric
from dualselect.statistics import Estimate


def test_a_minus_sign_is_as_wide_as_a_plus_sign():
    assert typeset("-0.25 [-1.00, +0.50]") == "\u22120.25 [\u22121.00, +0.50]"


@pytest.mark.parametrize(
    ("low", "high", "better", "word", "colour"),
    [
        (0.1, 0.3, "higher", "better", "good"),
        (0.1, 0.3, "lower", "worse", "bad"),
        (-0.3, -0.1, "lower", "better", "good"),
        (-0.3, -0.1, "higher", "worse", "bad"),
        (-0.3, -0.1, "neither", "lower", "plain"),
        (0.0, 0.3, "higher", "no difference shown", "neutral"),
        (math.nan, math.nan, "higher", "no difference shown", "neutral"),
    ],
)
def test_a_finding_is_a_word_with_a_colour(low, high, better, word, colour):
    value = 0.2 if math.isnan(low) else (low + high) / 2
    found = finding(Difference("sft", Estimate(value, low, high, n=9)), Metric("m", better))
    assert (found, tone(found)) == (word, colour)


@pytest.mark.parametrize(("n", "p_holm", "word"), [(9, 0.06, "no difference shown"), (1, 0.01, "no difference shown"),
                                                   (9, 0.01, "better")])  # fmt: skip
def test_what_a_correction_or_a_single_prompt_takes_back_is_not_shown(n, p_holm, word):
    difference = Difference("sft", Estimate(0.2, 0.1, 0.3, n=n), p_holm=p_holm)
    assert finding(difference, Metric("m", "higher")) == word
