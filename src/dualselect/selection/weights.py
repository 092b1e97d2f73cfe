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


def token_budget(
    score: Tensor, index: Tensor, tokens: Tensor, fraction: float, surplus: float | Tensor = 0.0
) -> Tensor:
    """Return 1 for the lowest scores that together hold `fraction` of the supervised tokens, else 0.

    Whole samples are added in the order of their scores until the budget is first reached, so the share that is
    really kept lies at or above the budget.

    Args:
        score: Shape `(N,)`.
        index: Shape `(N,)`, distinct integers that name the candidates.
        tokens: Shape `(N,)`, supervised tokens of each candidate.
        fraction: In (0, 1]; 1 keeps all.
        surplus: Tokens by which the budget is lower, having been kept too many before. At least one sample is kept.
    """
    valid = torch.isfinite(score)
    order = _order(score, index)
    counted = torch.where(valid, tokens, 0)[order].double()
    before = counted.cumsum(0) - counted
    kept = torch.zeros_like(score)
    kept[order] = ((before < fraction * counted.sum() - surplus) | (before == 0)).float()
    return kept * valid


class TokenBudget:
    """A token budget that holds over a whole run.

    Whole samples overshoot: of eight samples of equal length, a budget of 90% keeps all eight. What a batch keeps
    above its budget is therefore taken off the next one's, so that the run as a whole keeps the share it should.

    Args:
        fraction: Share of the supervised tokens to keep, in (0, 1].
        carry: Whether to carry the surplus over; without, each batch stands alone.
    """

    def __init__(self, fraction: float, carry: bool = True) -> None:
        self.fraction = fraction
        self.carry = carry
        self.surplus: float | Tensor = 0.0

    def weights(self, score: Tensor, index: Tensor, tokens: Tensor) -> Tensor:
        """Return `token_budget` for this batch and note the surplus; arguments as there."""
        kept = token_budget(score, index, tokens, self.fraction, self.surplus)
        if self.carry:
            counted = torch.where(torch.isfinite(score), tokens, 0).double()
            self.surplus = self.surplus + (kept * counted).sum() - self.fraction * counted.sum()
        return kept


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
