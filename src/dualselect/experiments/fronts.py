"""Fronts and areas of the points of a frontier."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dualselect.experiments.trial import point_name
from dualselect.runs.frontier import Area, Axis, Point
from dualselect.runs.results import START
from dualselect.runs.values import Measured
from dualselect.statistics import Estimate, holm
from dualselect.statistics.frontier import area_estimate, hypervolume, pareto_front, resampled_points

Array = NDArray[np.float64]
Axes = tuple[Axis, Axis]


def values_of_points(one: Measured, names: Sequence[str], seeds: Sequence[int | None]) -> Array:
    """Return the values of points, (points, seeds, prompts), NaN where there is none, on the prompts of them all."""
    rows = [one.by_method[name].get(seed, {}) for name in names for seed in seeds]
    ids = list(dict.fromkeys(sample for row in rows for sample in row))
    table = np.array([[row.get(sample) for sample in ids] for row in rows], dtype=np.float64)
    return table.reshape(len(names), len(seeds), len(ids))


def _turned(points: Sequence[Point], axes: Axes) -> Array:
    """Return the means of points, (points, 2), the better the larger."""
    signs = np.array([axis.sign for axis in axes])
    return signs * np.array([[point.safety.value, point.utility.value] for point in points]).reshape(-1, 2)


def worst(points: Sequence[Point], axes: Axes) -> tuple[float, float]:
    """Return the worst safety and the worst utility of all points but the start, each in its own units."""
    least = _turned([point for point in points if point.method != START], axes).min(0)
    return axes[0].sign * float(least[0]), axes[1].sign * float(least[1])


def with_fronts(points: Sequence[Point], axes: Axes) -> list[Point]:
    """Return the points with their places on the fronts of their methods and of all; the start is on none."""
    trained = [point for point in points if point.method != START]
    overall = pareto_front(_turned(trained, axes))
    on_front = {id(point): bool(there) for point, there in zip(trained, overall, strict=True)}
    of_method: dict[int, bool] = {}
    for method in dict.fromkeys(point.method for point in trained):
        own = [point for point in trained if point.method == method]
        of_method |= {
            id(point): bool(there) for point, there in zip(own, pareto_front(_turned(own, axes)), strict=True)
        }
    return [
        replace(point, on_front=of_method.get(id(point), False), on_overall_front=on_front.get(id(point), False))
        for point in points
    ]


def areas(
    points: Sequence[Point],
    found: Sequence[Measured],
    axes: Axes,
    reference: Sequence[float],
    baseline: str,
) -> list[Area]:
    """Return the hypervolume of every method, on the same draws of seeds and prompts for all."""
    trained = [point for point in points if point.method != START]
    names = [point_name(point.method, point.strength) for point in trained]
    seeds = list(dict.fromkeys(seed for name in names for seed in found[0].by_method[name]))
    signs = np.array([axis.sign for axis in axes])
    draws = signs * resampled_points(*(values_of_points(one, names, seeds) for one in found))
    means, corner = _turned(trained, axes), (signs * np.asarray(reference)).tolist()
    found_areas, of_draws = {}, {}
    for method in dict.fromkeys(point.method for point in trained):
        own = [place for place, point in enumerate(trained) if point.method == method]
        found_areas[method], of_draws[method] = (
            float(hypervolume(means[own], corner)),
            hypervolume(draws[:, own], corner),
        )
    prompts, counted = min(point.safety.n for point in trained), len(seeds)
    differences: Mapping[str, Estimate] = {
        method: area_estimate(
            found_areas[method] - found_areas[baseline],
            of_draws[method] - of_draws[baseline],
            prompts,
            counted,
            is_difference=True,
        )
        for method in found_areas
        if baseline in found_areas and method != baseline
    }
    adjusted = dict(zip(differences, holm([one.p_value or 0.0 for one in differences.values()]), strict=True))
    return [
        Area(
            method,
            area_estimate(found_areas[method], of_draws[method], prompts, counted),
            differences.get(method),
            adjusted.get(method),
        )
        for method in found_areas
    ]
