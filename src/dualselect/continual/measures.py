"""What a stream of tasks does to its scores: their average, transfer and forgetting.

A matrix has a score a[i, t] for task t after stage i. Formulas stand beside the functions, with tasks counted from 1.

Sources: D. Lopez-Paz and M. Ranzato, 'Gradient episodic memory for continual learning' (2017), for average and
transfer; A. Chaudhry et al., 'Riemannian walk for incremental learning' (2018), for forgetting. Forward transfer is
taken against a model trained on the task alone, as in the O-LoRA family of papers.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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


def _diagonal(matrix: Array) -> Array:
    return np.diagonal(matrix, axis1=-2, axis2=-1)
