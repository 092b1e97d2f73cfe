"""The Pareto front of points in a plane whose both axes are better when larger, and the area that points dominate.

Source: E. Zitzler and L. Thiele, 'Multiobjective optimization using evolutionary algorithms: a comparative case study'
(1998), for the hypervolume, which is an area in two dimensions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dualselect.statistics.bootstrap import RESAMPLES, draw_counts, percentiles, resampled_means
from dualselect.statistics.estimates import Estimate

Array = NDArray[np.float64]


def pareto_front(points: Array) -> NDArray[np.bool_]:
    """Return which points no other point dominates: is as good on both axes and better on one.

    Args:
        points: Points of shape (points, 2); one with NaN is never on the front.

    Returns:
        Whether each is on the front, of shape (points,); equal points are there together.
    """
    others, one = points[None, :, :], points[:, None, :]
    is_dominated = np.any(np.all(others >= one, -1) & np.any(others > one, -1), 1)
    return np.asarray(~is_dominated & ~np.any(np.isnan(points), -1))


def hypervolume(points: Array, reference: Sequence[float]) -> Array:
    """Return the area between a reference point and the front: of all that lies above it and below some point.

    Args:
        points: Points of shape (..., points, 2); one that is not better than the reference on both axes, or is NaN,
            adds nothing.
        reference: The reference point.

    Returns:
        Areas of shape (...).
    """
    sides = np.fmax(points - np.asarray(reference, dtype=np.float64), 0.0)  # fmax takes zero for NaN
    width, height = np.moveaxis(np.where(np.any(np.isnan(points), -1, keepdims=True), 0.0, sides), -1, 0)
    order = np.argsort(width, axis=-1)
    width, height = (np.take_along_axis(side, order, axis=-1) for side in (width, height))
    highest = np.flip(np.maximum.accumulate(np.flip(height, -1), axis=-1), -1)  # of this point and all to its right
    return np.asarray((np.diff(width, axis=-1, prepend=0.0) * highest).sum(-1))


def resampled_points(first: Array, second: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> Array:
    """Return the means of points on both axes for every draw of seeds and prompts.

    All points are measured on the same draw, so that differences between them are paired. Seeds are drawn for both
    axes together, the prompts of each axis by themselves.

    Args:
        first: Values of the first axis, of shape (points, seeds, prompts); NaN where there is no value.
        second: Values of the second axis, of shape (points, seeds, other prompts).
        resamples: Number of draws.
        seed: Seed of the resampling.

    Returns:
        Means of shape (resamples, points, 2); NaN where a draw has no value.
    """
    rng = np.random.default_rng(seed)
    seed_counts = draw_counts(first.shape[1], resamples, rng)
    return np.stack([resampled_means(axis, seed_counts, rng).T for axis in (first, second)], axis=-1)


def area_estimate(value: float, draws: Array, n: int, seeds: int, *, is_difference: bool = False) -> Estimate:
    """Return an area, or a difference of two, without what noise adds to it, and with an interval.

    The front of noisy points lies further out than that of their true places, the more so the more points there are.
    How far is estimated by how much larger the draws are than the area, on average: once this is taken off the area,
    and twice off the percentiles of the draws, which contain it twice (B. Efron and R. J. Tibshirani, 'An introduction
    to the bootstrap', 1993, chapter 10, for the first).

    Args:
        value: The area of the means.
        draws: Areas of the draws, of shape (resamples,).
        n: Number of prompts.
        seeds: Number of training seeds.
        is_difference: Whether it is a difference.
    """
    noise = float(draws.mean()) - value
    low, high, p_value = percentiles(draws - 2 * noise, 0.95)
    if is_difference:
        return Estimate(value - noise, low, high, n, seeds, is_difference=True, p_value=p_value)
    return Estimate(max(0.0, value - noise), max(0.0, low), max(0.0, high), n, seeds)
