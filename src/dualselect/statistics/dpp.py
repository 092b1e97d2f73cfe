"""Determinantal point processes: the subset of some items that is both weighty and diverse."""

import numpy as np
from numpy.typing import NDArray


def greedy_map(features: NDArray[np.float64], count: int, jitter: float = 1e-6) -> list[int]:
    """Return the items of a subset with a large determinant of its kernel, in the order in which they are taken.

    The kernel is K = F F^T + jitter I. Starting from no item, the one is added that raises det K of the subset most;
    ties go to the first. By Cholesky rows that grow with the subset ("Fast Greedy MAP Inference for Determinantal
    Point Process", arXiv 1709.05135): O(count n (count + d)) operations, and memory for `(count, n)` beside F.

    Args:
        features: Features F, `(n, d)`, finite.
        count: Size of the subset, at most n.
        jitter: What is added to the diagonal, above 0, so that every subset has a determinant above 0.
    """
    gain = (features**2).sum(1) + jitter  # by which the determinant grows with each item
    rows = np.zeros((count, len(features)))
    chosen: list[int] = []
    for step in range(count):
        best = int(gain.argmax())
        row = features @ features[best] - rows[:step, best] @ rows[:step]
        row[best] += jitter
        rows[step] = row / np.sqrt(gain[best])
        chosen.append(best)
        gain = np.maximum(gain - rows[step] ** 2, jitter)  # less than the jitter is rounding
        gain[chosen] = -np.inf
    return chosen
