"""From scores to weights: hard top-k, a token budget, or the soft closed form.

Every function prefers low scores, returns weights that do not depend on the candidates' order (ties go to the lower
`index`) and gives weight 0 to a candidate whose score is not finite. Weights are relative: uniform weighting is 1 for
every candidate. Nothing here waits for the device.
"""

import torch
from torch import Tensor


def hard_top_k(score: Tensor, index: Tensor, k: int) -> Tensor:
    """Return 1 for the k lowest scores, else 0.

    Args:
        score: Shape `(N,)`.
        index: Shape `(N,)`, distinct integers that name the candidates.
        k: How many to keep; all if k is N or more.
    """
    place = _places(score, index)
    return ((place < k) & torch.isfinite(score)).float()


def token_budget(score: Tensor, index: Tensor, tokens: Tensor, fraction: float) -> Tensor:
    """Return 1 for the lowest scores that together hold `fraction` of the supervised tokens, else 0.

    Whole samples are added in the order of their scores until the budget is first reached, so the share that is
    really kept lies at or above `fraction`.

    Args:
        score: Shape `(N,)`.
        index: Shape `(N,)`, distinct integers that name the candidates.
        tokens: Shape `(N,)`, supervised tokens of each candidate.
        fraction: In (0, 1]; 1 keeps all.
    """
    valid = torch.isfinite(score)
    order = _order(score, index)
    counted = torch.where(valid, tokens, 0)[order].double()
    before = counted.cumsum(0) - counted
    kept = torch.zeros_like(score)
    kept[order] = (before < fraction * counted.sum()).float()
    return kept * valid


def soft(score: Tensor, index: Tensor, tau: float, keep: int | None = None) -> Tensor:
    """Return weights proportional to exp(-score / tau), the minimiser of <p, s> - tau * H(p) over the simplex.

    Args:
        score: Shape `(N,)`.
        index: Shape `(N,)`, distinct integers that name the candidates.
        tau: Temperature; towards 0 the lowest score takes all, towards infinity all weigh the same.
        keep: Keep only the heaviest so many, and renormalise.

    Returns:
        Shape `(N,)`; the weights sum to the number of candidates that are kept.
    """
    kept = hard_top_k(score, index, len(score) if keep is None else keep)
    logits = torch.where(kept > 0, -score.float() / tau, -torch.inf)
    probabilities = torch.nan_to_num(logits.softmax(0))
    return probabilities * kept.sum()


def _order(score: Tensor, index: Tensor) -> Tensor:
    by_index = index.argsort(stable=True)
    score = torch.where(torch.isfinite(score), score, torch.inf)
    return by_index[score[by_index].argsort(stable=True)]


def _places(score: Tensor, index: Tensor) -> Tensor:
    order = _order(score, index)
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order), device=order.device)
    return places
