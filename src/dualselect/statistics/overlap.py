"""How much choices overlap, and whether that is more than chance: Jaccard indices and contingency tables.

Sources: P. Jaccard (1901) for the index; H. Cramér, 'Mathematical methods of statistics' (1946), for V.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Reals = NDArray[np.float64]


def jaccard(members: Bools) -> Reals:
    """Return the Jaccard index |A & B| / |A | B| of all pairs of sets, `(..., B, B)`; 1 for two empty sets.

    Args:
        members: Shape `(..., B, n)`: which of n things each of B sets contains.
    """
    counts = members.astype(np.float32)
    shared = (counts @ counts.swapaxes(-1, -2)).astype(np.float64)
    sizes = members.sum(-1)
    together = sizes[..., :, None] + sizes[..., None, :] - shared
    return np.divide(shared, together, out=np.ones_like(shared), where=together > 0)


def expected_jaccard(n: int, first: int, second: int) -> float:
    """Return the expectation of the Jaccard index of two random subsets of n things, of the sizes given; exact.

    The number of things in both has a hypergeometric distribution.
    """
    if first + second == 0:
        return 1.0
    ways = math.comb(n, second)
    shared = range(max(0, first + second - n), min(first, second) + 1)
    return sum(math.comb(first, i) * math.comb(n - first, second - i) / ways * i / (first + second - i) for i in shared)


def random_members(rng: np.random.Generator, sets: int, n: int, size: int) -> Bools:
    """Return random sets of `size` out of n things, `(sets, n)`."""
    members = np.zeros((sets, n), dtype=np.bool_)
    chosen = rng.random((sets, n)).argpartition(size - 1, axis=1)[:, :size]
    np.put_along_axis(members, chosen, True, axis=1)
    return members


def two_sided(observed: float, null: Reals) -> float:
    """Return the p-value of a value under random ones: the share that lies as far from their mean, or farther.

    The observed value counts as one of them, so that it is never zero (Phipson and Smyth, 2010).
    """
    center = null.mean()
    # Sums of the same numbers in another order are the same distance.
    far = np.abs(null - center) >= abs(observed - center) * (1 - 1e-9)
    return float((1 + far.sum()) / (1 + len(null)))


class Association(NamedTuple):
    """Whether the rows of a contingency table differ in their columns.

    Attributes:
        chi2: Pearson's chi-square.
        dof: Its degrees of freedom, over rows and columns that are not empty; 0 if there is only one of either.
        p_value: Its tail under independent counts; NaN without degrees of freedom.
        cramers_v: Effect size from 0 to 1; NaN without degrees of freedom.
    """

    chi2: float
    dof: int
    p_value: float
    cramers_v: float


def association(table: NDArray[np.int64] | Reals) -> Association:
    """Return the chi-square test and Cramér's V of counts, shape (rows, columns)."""
    counts = np.asarray(table, dtype=np.float64)
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    rows, columns = counts.shape
    dof = max(0, (rows - 1) * (columns - 1))
    if dof == 0:
        return Association(0.0, 0, math.nan, math.nan)
    chi2 = float(chi_square(counts))
    return Association(chi2, dof, _chi2_tail(chi2, dof), math.sqrt(chi2 / (counts.sum() * (min(rows, columns) - 1))))


def chi_square(counts: Reals) -> Reals:
    """Return Pearson's chi-square of tables of counts, `(..., rows, columns)`; empty rows and columns add nothing."""
    total = counts.sum((-1, -2), keepdims=True)
    expected = counts.sum(-1, keepdims=True) * counts.sum(-2, keepdims=True) / total
    terms = np.divide((counts - expected) ** 2, expected, out=np.zeros_like(counts), where=expected > 0)
    return np.asarray(terms.sum((-1, -2)))


def permutation_tail(
    labels: NDArray[np.int64], statistic: Callable[[NDArray[np.int64]], float], permutations: int, seed: int
) -> float:
    """Return the share of permutations of some labels whose statistic is at least the observed one, itself included.

    Args:
        labels: Shape (n,), the labels as they are.
        statistic: What is computed of them; larger is more extreme.
        permutations: Permutations to draw.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    least = statistic(labels) * (1 - 1e-9)
    return (1 + sum(statistic(rng.permutation(labels)) >= least for _ in range(permutations))) / (1 + permutations)


def _chi2_tail(chi2: float, dof: int) -> float:
    import torch  # here, since those who only read tables should not wait for it

    half = torch.tensor([dof / 2, chi2 / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
