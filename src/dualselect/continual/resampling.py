"""Intervals of what is computed from a matrix of scores, such as forgetting, which is not a mean over prompts.

Prompts are resampled in each task by itself and the same way for all stages and methods, so that a change is that of
the same prompts; seeds are resampled for all tasks together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dualselect.continual.measures import Array
from dualselect.statistics import RESAMPLES, Estimate, wilson_interval
from dualselect.statistics.bootstrap import draw_counts

_CELLS_AT_ONCE = 2_000_000  # of resampled weights, 16 MB each
_EQUAL = 1e-12  # spread of draws that differ by rounding alone

Measure = Callable[[Array], Array]


@dataclass(frozen=True)
class Resampled:
    """The matrices of several cells, and what they might have been on other prompts.

    Attributes:
        plain: Scores of shape (cells, stages, tasks).
        draws: Scores of shape (resamples, cells, stages, tasks), each draw on prompts drawn anew.
        prompts: Number of prompts of all tasks.
        seed: Seed of the resampling of seeds.
    """

    plain: Array
    draws: Array
    prompts: int
    seed: int = 0

    def estimate(
        self, measure: Measure, cells: Sequence[int], others: Sequence[int] = (), *, is_change: bool, shares: bool
    ) -> Estimate | None:
        """Return the mean of a measure over cells with its 95% interval; None where it is undefined.

        A measure that is the same in every draw, as where nothing is ever forgotten, gets an interval as wide as the
        Wilson bound on how often another prompt may behave otherwise.

        Args:
            measure: Function from scores of shape (..., stages, tasks) to values of shape (...).
            cells: Places of the cells, one for each seed.
            others: Places of the cells under the same seeds that it is the difference from, if any.
            is_change: Whether the measure itself is a difference of scores.
            shares: Whether scores are shares, in [0, 1].
        """
        value, draws = self._differences(measure, cells, others)
        if np.isnan(value):
            return None
        is_difference = is_change or bool(others)
        low, high = np.nanquantile(draws, [0.025, 0.975])
        p_value = _p_value(draws)
        if high - low < _EQUAL:
            low, high, p_value = np.nan, np.nan, 1.0
            if shares:
                _, reach = wilson_interval(0, self.prompts)
                low, high = value - reach * (value + is_difference), value + reach * (1 - value)
        return Estimate(
            value,
            float(low),
            float(high),
            n=self.prompts,
            seeds=len(cells),
            is_difference=is_difference,
            p_value=p_value if others else None,
        )

    def _differences(self, measure: Measure, cells: Sequence[int], others: Sequence[int]) -> tuple[float, Array]:
        """Return the mean over cells, less that of the others, and the same of every draw."""
        plain, draws = measure(self.plain[list(cells)]), measure(self.draws[:, list(cells)])
        if others:
            plain = plain - measure(self.plain[list(others)])
            draws = draws - measure(self.draws[:, list(others)])
        counts = draw_counts(len(cells), len(draws), np.random.default_rng(self.seed))
        return float(plain.mean()), np.asarray((draws * counts).mean(-1))


def resample(scores: Sequence[Array], *, resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """Return the matrices of cells with draws of their prompts.

    Args:
        scores: Scores of the prompts of each task, of shape (cells, stages, prompts); NaN where there is none.
        resamples: Number of draws.
        seed: Seed of the resampling; equal seeds give equal intervals.
    """
    rng = np.random.default_rng(seed)
    plain = np.stack([_means(task, np.ones((1, task.shape[-1])))[0] for task in scores], -1)
    draws = np.stack([_drawn_means(task, resamples, rng) for task in scores], -1)
    prompts = sum(int((~np.isnan(task)).any((0, 1)).sum()) for task in scores)
    return Resampled(plain, draws, prompts, seed + 1)


def _drawn_means(scores: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Return means of (cells, stages, prompts) over prompts drawn anew, of shape (resamples, cells, stages)."""
    prompts = scores.shape[-1]
    chunk = max(1, _CELLS_AT_ONCE // prompts)
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    return np.concatenate([_means(scores, draw_counts(prompts, size, rng)) for size in sizes])


def _means(scores: Array, counts: Array) -> Array:
    """Return means of (cells, stages, prompts) weighted by counts (draws, prompts), (draws, cells, stages)."""
    present = (~np.isnan(scores)).astype(np.float64)
    total, weight = (np.moveaxis(side @ counts.T, -1, 0) for side in (np.nan_to_num(scores), present))
    return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)


def _p_value(draws: Array) -> float:
    """Return the smallest 1 - confidence at which the percentile interval leaves zero out."""
    side = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * float(side + 1) / (len(draws) + 1))
