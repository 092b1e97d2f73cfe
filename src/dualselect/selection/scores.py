"""Scores of candidates: a loss term and a cosine term, raw or made comparable."""

import torch
from torch import Tensor

SCALINGS = ("raw", "zscore", "rank")


def score(loss: Tensor, cosine: Tensor, *, mu: float, nu: float, scaling: str = "raw") -> Tensor:
    """Return s = mu * loss - nu * cosine for every candidate.

    References with the highest s are at risk: a high preservation loss, and a gradient that conflicts with the task
    direction. Task samples with the lowest s are cheap to learn and compatible with the reference direction
    (DualSelect, arXiv 2606.09866).

    Args:
        loss: Shape `(N,)`, nats per token. Candidates whose loss is not finite get a score that is not finite.
        cosine: Shape `(N,)`.
        mu: Weight of the loss term.
        nu: Weight of the cosine term.
        scaling: `raw` uses both terms as they are; `zscore` gives each mean 0 and standard deviation 1 over the
            candidates; `rank` replaces each by its rank in [0, 1], ties sharing the mean rank.

    Returns:
        Shape `(N,)`, fp32.
    """
    rescale = {"raw": lambda values: values, "zscore": _zscore, "rank": _rank}[scaling]
    valid = torch.isfinite(loss) & torch.isfinite(cosine)
    loss, cosine = (rescale(torch.where(valid, term.float(), torch.nan)) for term in (loss, cosine))
    return mu * loss - nu * cosine


def _zscore(values: Tensor) -> Tensor:
    mean = values.nanmean()
    deviation = (values - mean).square().nanmean().sqrt()
    return torch.where(deviation > 0, (values - mean) / deviation, values - mean)


def _rank(values: Tensor) -> Tensor:
    below = (values[None, :] < values[:, None]).sum(1)
    equal = (values[None, :] == values[:, None]).sum(1)
    valid = torch.isfinite(values)
    rank = (below + (equal - 1) / 2) / (valid.sum() - 1).clamp_min(1)
    return torch.where(valid, rank, torch.nan)
