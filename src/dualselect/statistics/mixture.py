"""One Gaussian or two: how much better two explain some numbers, and which numbers belong to the upper one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_FLOOR = 1e-3  # a component may not be narrower than this share of the whole spread, else one number is a component
_ROUNDS = 500
_STARTS = (0.5, 0.75, 0.9, 0.95)  # quantiles at which the two components are split to begin with


@dataclass(frozen=True)
class TwoGaussians:
    """A mixture of two Gaussians, the lower one first.

    Attributes:
        shares: Shares of the components, `(2,)`.
        means: Their means, ascending, `(2,)`.
        deviations: Their standard deviations, `(2,)`.
        gain: Log-likelihood of the numbers, in nats, beyond that of a single Gaussian.
    """

    shares: Values
    means: Values
    deviations: Values
    gain: float

    def is_upper(self, values: Values) -> NDArray[np.bool_]:
        """Return which numbers belong more likely to the upper component; all above one that does, too."""
        parts = _log_parts(values, self.shares, self.means, self.deviations)
        upper = (parts[1] > parts[0]) & (values > self.means[0])
        # The wider component wins in both tails; a cut has a single place.
        found: NDArray[np.bool_] = values >= values[upper].min() if upper.any() else upper
        return found


def two_gaussians(values: Values) -> TwoGaussians:
    """Return the likeliest mixture of two Gaussians, found by expectation-maximisation from several starts.

    Args:
        values: Finite numbers, `(n,)`, not all equal, n at least 2.
    """
    values = np.asarray(values, dtype=np.float64)
    single = float(_log_density(values, values.mean(), values.std()).sum())
    fits = [_fit(values, values > np.quantile(values, start)) for start in _STARTS]
    best = max((fit for fit in fits if fit is not None), key=lambda fit: fit[0], default=None)
    if best is None:
        shares, means, spread = np.array([1.0, 0.0]), np.full(2, values.mean()), np.full(2, values.std())
        return TwoGaussians(shares, means, spread, 0.0)
    likelihood, shares, means, deviations = best
    order = means.argsort()
    return TwoGaussians(shares[order], means[order], deviations[order], likelihood - single)


def _fit(values: Values, upper: NDArray[np.bool_]) -> tuple[float, Values, Values, Values] | None:
    """Return log-likelihood, shares, means and deviations, begun from a split; None where a side of it is empty."""
    if not upper.any() or upper.all():
        return None
    floor, before = _FLOOR * values.std(), -np.inf
    weights = np.stack([~upper, upper]).astype(np.float64)
    for _ in range(_ROUNDS):
        mass = np.maximum(weights.sum(1), 1e-12)
        shares, means = mass / mass.sum(), (weights @ values) / mass
        deviations = np.sqrt((weights * (values - means[:, None]) ** 2).sum(1) / mass).clip(floor)
        parts = _log_parts(values, shares, means, deviations)
        total = np.logaddexp(parts[0], parts[1])
        likelihood = float(total.sum())
        if likelihood - before < 1e-6 * len(values):
            break
        weights, before = np.exp(parts - total), likelihood
    return likelihood, shares, means, deviations


def _log_parts(values: Values, shares: Values, means: Values, deviations: Values) -> Values:
    with np.errstate(divide="ignore"):
        logs = np.log(shares)
    parts: Values = logs[:, None] + _log_density(values, means[:, None], deviations[:, None])
    return parts


def _log_density(values: Values, mean: Values, deviation: Values) -> Values:
    found: Values = -0.5 * ((values - mean) / deviation) ** 2 - np.log(deviation) - 0.5 * np.log(2 * np.pi)
    return found
