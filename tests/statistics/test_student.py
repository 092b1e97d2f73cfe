"""Student's t against scipy, and standard errors against the analysis of variance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dualselect.statistics.student import standard_error, t_quantile, t_tail


@given(t=st.floats(-60, 60), degrees=st.floats(1, 60))
def test_tails_are_scipy_s(t: float, degrees: float) -> None:
    assert t_tail(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), rel=1e-6, abs=1e-9)


@given(confidence=st.floats(0.05, 0.999), degrees=st.floats(1, 60))
def test_quantiles_are_scipy_s(confidence: float, degrees: float) -> None:
    assert t_quantile(confidence, degrees) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-7)


def test_one_seed_has_the_textbook_s_standard_error() -> None:
    values = np.array([[3.0, 5.0, 10.0, np.nan]])
    error, degrees = standard_error(values)
    assert error == pytest.approx(stats.sem(values[0, :3]))
    assert degrees == 2


def test_variances_of_prompts_and_seeds_add_up() -> None:
    """Means of prompts 1, 3, 5 have the variance 4, over 3; means of seeds 2 and 4 the variance 2, over 2."""
    table = np.array([[0.0, 2.0, 4.0], [2.0, 4.0, 6.0]])
    error, degrees = standard_error(table)
    assert error**2 == pytest.approx(4 / 3 + 1)
    assert degrees == pytest.approx((4 / 3 + 1) ** 2 / ((4 / 3) ** 2 / 2 + 1 / 1))


@pytest.mark.parametrize("table", [[[1.0]], [[1.0], [2.0]], [[2.0, 2.0, 2.0]], [[1.0, np.nan]]])
def test_without_spread_from_prompt_to_prompt_there_is_none(table) -> None:
    assert math.isnan(standard_error(np.array(table))[0])
