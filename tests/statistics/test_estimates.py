import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualselect.statistics import wilson_interval

_Z = 1.959963984540054  # the 97.5% point of the standard normal distribution


@given(total=st.integers(1, 400), share=st.floats(0, 1))
def test_bounds_solve_the_score_equation(total: int, share: float) -> None:
    """Wilson's bounds p are where the observed rate lies z standard errors, computed at p, from p."""
    successes = round(share * total)
    rate = successes / total
    for bound in wilson_interval(successes, total):
        assert math.isclose((rate - bound) ** 2, _Z**2 * bound * (1 - bound) / total, rel_tol=1e-6, abs_tol=1e-9)


@given(total=st.integers(1, 400), share=st.floats(0, 1))
def test_interval_contains_the_rate_and_mirrors(total: int, share: float) -> None:
    successes = round(share * total)
    low, high = wilson_interval(successes, total)
    assert 0 <= low <= successes / total <= high <= 1
    mirrored_low, mirrored_high = wilson_interval(total - successes, total)
    assert low == pytest.approx(1 - mirrored_high, abs=1e-12)
    assert high == pytest.approx(1 - mirrored_low, abs=1e-12)


def test_extremes_have_a_width() -> None:
    assert wilson_interval(0, 36) == (0.0, pytest.approx(_Z**2 / (36 + _Z**2)))
    assert wilson_interval(36, 36) == (pytest.approx(36 / (36 + _Z**2)), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="not defined"):
        wilson_interval(3, 2)
