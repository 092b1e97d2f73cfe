"""Which references of a large pool a refresh scores: those chosen last time, and a stratified draw of the others."""

import torch
from torch import Tensor

from dualselect.selection.pool import Pool


def draw_candidates(pool: Pool, count: int, chosen: Tensor, generator: torch.Generator) -> Tensor | None:
    """Return the rows of the pool to score at a refresh, ascending, `(count,)` int64; None for all of them.

    Rows chosen last time come first, since what was at risk mostly still is. The rest is drawn from the other rows,
    each with the same probability, and from every stratum in proportion. Strata are the pool's categories; without
    categories, lengths within a factor of two.

    Args:
        pool: Pool of references.
        count: Number of rows to score; the pool's size or more means all.
        chosen: Rows chosen last time, `(K,)` int64, at most `count`; empty at the first refresh.
        generator: CPU generator, equal on all processes.
    """
    if count >= len(pool):
        return None
    is_other = torch.ones(len(pool), dtype=torch.bool)
    is_other[chosen] = False
    others = is_other.nonzero().flatten()
    drawn = others[stratified(_strata(pool)[others], count - len(chosen), generator)]
    return torch.cat([chosen, drawn]).sort().values


def stratified(strata: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return n different places, each drawn with probability n / N; every stratum gets its share, rounded up or down.

    The draw is systematic over a random order in which the samples of a stratum follow each other.

    Args:
        strata: Number of each sample's stratum, shape `(N,)`.
        n: Number of places to draw, at most N.
        generator: CPU generator; equal ones give equal draws.
    """
    size = len(strata)
    order = torch.randperm(size, generator=generator)
    order = order[strata[order].argsort(stable=True)]
    if n == 0:
        return order[:0]
    # In whole numbers, so that each place of the order is hit by exactly n of the `size` starts.
    start = torch.randint(size, (), generator=generator)
    return order[(start + torch.arange(n) * size) // n]


def _strata(pool: Pool) -> Tensor:
    if pool.categories is not None:
        return pool.categories
    return pool.lengths.clamp_min(1).log2().floor()
