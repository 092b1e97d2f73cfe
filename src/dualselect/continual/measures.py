"""What a stream of tasks does to its scores: their average, transfer and forgetting, with intervals.

A matrix has a score a[i, t] for task t after stage i. Formulas stand beside the functions, with tasks counted from 1.

Sources: D. Lopez-Paz and M. Ranzato, 'Gradient episodic memory for continual learning' (2017), for average and
transfer; A. Chaudhry et al., 'Riemannian walk for incremental learning' (2018), for forgetting. Forward transfer is
taken against a model trained on the task alone, as in the O-LoRA family of papers.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from dualselect.statistics import RESAMPLES, Estimate, wilson_interval
from dualselect.statistics.bootstrap import draw_counts

Array = NDArray[np.float64]

_CELLS_AT_ONCE = 2_000_000  # of resampled weights, 16 MB each


def average_score(matrix: Array) -> Array:
    """Return the mean score after the last stage, (1/T) Σ_t a[T, t].

    Args:
        matrix: Scores of shape (..., stages, tasks), with as many stages as tasks.
    """
    return np.asarray(matrix[..., -1, :].mean(-1))


def backward_transfer(matrix: Array) -> Array:
    """Return what the later stages did to earlier tasks, (1/(T-1)) Σ_{t<T} (a[T, t] - a[t, t]); negative is a loss.

    Args:
        matrix: Scores of shape (..., stages, tasks), with as many stages as tasks, which are two or more.
    """
    return np.asarray((matrix[..., -1, :-1] - _diagonal(matrix)[..., :-1]).mean(-1))


def forgetting(matrix: Array) -> Array:
    """Return the drop from the best that a task has been, (1/(T-1)) Σ_{t<T} (max_{i<T} a[i, t] - a[T, t]).

    Args:
        matrix: Scores of shape (..., stages, tasks), with as many stages as tasks, which are two or more; NaN where a
            task was not measured, which is not the best.
    """
    best = np.fmax.reduce(matrix[..., :-1, :-1], axis=-2)
    return np.asarray((best - matrix[..., -1, :-1]).mean(-1))


def forward_transfer(matrix: Array, singles: Array) -> Array:
    """Return what the earlier stages did for a new task, (1/(T-1)) Σ_{t>1} (a[t, t] - ã[t]); positive is a gain.

    Args:
        matrix: Scores of shape (..., stages, tasks), with as many stages as tasks, which are two or more.
        singles: Scores ã of models that were trained on one task alone, of shape (..., tasks).
    """
    return np.asarray((_diagonal(matrix) - singles)[..., 1:].mean(-1))


def estimate_measures(
    scores: Sequence[Array], singles: Sequence[Array] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Estimate]:
    """Return the measures of a stream by name, the mean over seeds, each with a 95% interval.

    Prompts are resampled in each task by itself and the same way for all stages, so that a change is that of the same
    prompts; seeds are resampled for all tasks together. A measure that is the same in every draw, as where nothing is
    ever forgotten, gets an interval as wide as the Wilson bound on how often another prompt may behave otherwise.

    Args:
        scores: Scores of the prompts of each task, of shape (seeds, stages, prompts), higher is better; NaN where there
            is none. There are as many stages as tasks.
        singles: Scores of models that were trained on that task alone, of shape (seeds, prompts); None where there are
            none, so that forward transfer is unknown.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling.

    Returns:
        Estimates of `average`, `backward`, `forgetting` and `forward`; of a stream of one task the first alone.

    Raises:
        ValueError: Stages and tasks differ in number, or tasks in their seeds.
    """
    tasks = len(scores)
    if {task.shape[:2] for task in scores} != {(len(scores[0]), tasks)}:
        raise ValueError(f"{tasks} tasks need scores (seeds, {tasks}, prompts), not {[task.shape for task in scores]}")
    tables = list(scores)
    if singles is not None:  # beside the stages, for the same prompts
        tables = [np.concatenate([task, alone[:, None]], 1) for task, alone in zip(scores, singles, strict=True)]
    plain = np.stack([np.nanmean(task, -1) for task in tables], -1)
    rng = np.random.default_rng(seed)
    seeds = draw_counts(len(plain), resamples, rng) / len(plain)
    drawn = np.stack([_resampled(task, resamples, rng) for task in tables], -1)
    prompts = sum(int((~np.isnan(task)).any((0, 1)).sum()) for task in scores)
    estimates = {}
    for name, measure in _measures(tasks, singles is not None).items():
        value, draws = float(measure(plain).mean()), (measure(drawn) * seeds).sum(-1)
        low, high = _interval(value, draws, prompts, is_difference=name != "average")
        estimates[name] = Estimate(value, low, high, n=prompts, seeds=len(plain), is_difference=name != "average")
    return estimates


def _measures(tasks: int, has_singles: bool) -> dict[str, Callable[[Array], Array]]:
    """Return the measures by name, each a function of a matrix (..., stages, tasks) with `singles` as a last stage."""
    found: dict[str, Callable[[Array], Array]] = {"average": lambda table: average_score(table[..., :tasks, :])}
    if tasks > 1:
        found["backward"] = lambda table: backward_transfer(table[..., :tasks, :])
        found["forgetting"] = lambda table: forgetting(table[..., :tasks, :])
        if has_singles:
            found["forward"] = lambda table: forward_transfer(table[..., :tasks, :], table[..., tasks, :])
    return found


def _resampled(table: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Return the means of (seeds, stages, prompts) over prompts drawn anew, of shape (resamples, seeds, stages)."""
    present, filled = (~np.isnan(table)).astype(np.float64), np.nan_to_num(table)
    chunk = max(1, _CELLS_AT_ONCE // table.shape[-1])
    means = []
    for start in range(0, resamples, chunk):
        counts = draw_counts(table.shape[-1], min(chunk, resamples - start), rng)
        total, weight = (np.moveaxis(side @ counts.T, -1, 0) for side in (filled, present))
        means.append(np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0))
    return np.concatenate(means)


def _interval(value: float, draws: Array, prompts: int, *, is_difference: bool) -> tuple[float, float]:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    if high - low > 1e-12:
        return float(low), float(high)
    _, reach = wilson_interval(0, prompts)
    return value - reach * (value + is_difference), value + reach * (1 - value)


def _diagonal(matrix: Array) -> Array:
    return np.diagonal(matrix, axis1=-2, axis2=-1)
