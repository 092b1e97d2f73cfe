"""How far two judges agree beyond chance.

Source: J. Cohen, 'A coefficient of agreement for nominal scales' (1960); the interval comes from resampled answers.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from dualselect.statistics.bootstrap import RESAMPLES
from dualselect.statistics.estimates import Estimate


def cohen_kappa(
    first: Sequence[Hashable | None],
    second: Sequence[Hashable | None],
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return Cohen's kappa of two judges' labels for the same answers, with a bootstrap interval over the answers.

    1 is perfect agreement, 0 that of chance. Where both judges give the same single label to everything, chance
    explains all of it and kappa is NaN.

    Args:
        first: Labels of one judge; None where it gave no verdict; such pairs are left out and counted as `missing`.
        second: Labels of the other, in the same order.
        confidence: Confidence of the interval.
        resamples: Number of bootstrap samples.
        seed: Seed of the resampling.

    Raises:
        ValueError: The lists differ in length, or no answer has both verdicts.
    """
    pairs = [pair for pair in zip(first, second, strict=True) if None not in pair]
    if not pairs:
        raise ValueError("no answer has a verdict of both judges")
    labels = sorted({label for pair in pairs for label in pair}, key=str)
    cells = {(a, b): row * len(labels) + column for row, a in enumerate(labels) for column, b in enumerate(labels)}
    counts = np.bincount([cells[pair] for pair in pairs], minlength=len(labels) ** 2)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(pairs), counts / len(pairs), size=resamples)
    value = float(_kappa(counts[None], len(labels))[0])
    # A resample without any disagreement expected by chance has no kappa and is left out.
    found = _kappa(drawn, len(labels))
    found = found[~np.isnan(found)]
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(found, tails) if len(found) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), n=len(pairs), missing=len(first) - len(pairs))


def _kappa(counts: np.ndarray, size: int) -> np.ndarray:
    """Return kappa of contingency tables, shape (tables, size * size)."""
    shares = counts.reshape(-1, size, size) / counts.sum(1)[:, None, None]
    observed = np.trace(shares, axis1=1, axis2=2)
    chance = (shares.sum(1) * shares.sum(2)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
