"""The mixture against the densities it is to have, computed by scipy."""

import numpy as np
import pytest
from scipy.stats import norm

from dualselect.statistics.mixture import two_gaussians


def test_planted_components_are_found_and_the_gain_is_that_of_their_densities():
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(-1.0, 0.5, 4000), rng.normal(4.0, 1.0, 1000)])
    found = two_gaussians(values)
    assert found.shares == pytest.approx([0.8, 0.2], abs=0.01)
    assert found.means == pytest.approx([-1.0, 4.0], abs=0.1)
    assert found.deviations == pytest.approx([0.5, 1.0], abs=0.05)
    density = norm.pdf(values[:, None], found.means, found.deviations) @ found.shares
    single = norm.logpdf(values, values.mean(), values.std()).sum()
    assert found.gain == pytest.approx(np.log(density).sum() - single, rel=1e-6)


def test_it_does_not_depend_on_place_scale_or_order():
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(size=90), rng.normal(6.0, 1.0, 10)])
    first, second = two_gaussians(values), two_gaussians(1e-6 * values[::-1] + 3e-5)
    assert second.gain == pytest.approx(first.gain, rel=1e-4)
    assert (first.is_upper(values) == second.is_upper(1e-6 * values + 3e-5)).all()


def test_all_above_a_number_of_the_upper_component_belong_to_it_too():
    """The lower component is the wider one, so that its density is higher again far above."""
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0.0, 3.0, 300), rng.normal(8.0, 0.2, 100), [16.0]])
    upper = two_gaussians(values).is_upper(values)
    assert upper[-1]
    assert upper[values > values[upper].min()].all()
