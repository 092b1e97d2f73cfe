"""From losses and cosines to scores, and from scores to weights: hard top-k, a token budget, or the soft closed form.

Weights prefer low scores, do not depend on the candidates' order (ties go to the lower `index`) and are 0 for a
candidate whose score is not finite. They are relative: uniform weighting is 1 for every candidate. Nothing here waits
for the device, and nothing needs fp64, which some devices lack.
"""

import torch
from torch import Tensor

SCALINGS = ("raw", "zscore", "rank")

_SHARES = 10**9  # parts that a token is counted in, so that budgets are whole numbers and their sums exact


def score(loss: Tensor, cosine: Tensor, *, mu: float, nu: float, scaling: str = "raw") -> Tensor:
    """Return s = mu * loss - nu * cosine for every candidate.

    References with the highest s are at risk: a high preservation loss, and a gradient that conflicts with the task
    direction. Task samples with the lowest s are cheap to learn and compatible with the reference direction
    (DualSelect, arXiv 2606.09866).

    Args:
        loss: Losses, shape `(N,)`, nats per token. Candidates whose loss is not finite get a score that is not finite.
        cosine: Cosines, shape `(N,)`.
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
    valid = torch.isfinite(values)
    ordered = torch.where(valid, values, torch.inf).sort().values
    first = torch.searchsorted(ordered, values)
    last = torch.searchsorted(ordered, values, right=True) - 1
    rank = (first + last) / 2 / (valid.sum() - 1).clamp_min(1)
    return torch.where(valid, rank, torch.nan)


def hard_top_k(score: Tensor, index: Tensor, k: int) -> Tensor:
    """Return 1 for the k lowest scores, else 0.

    Args:
        score: Shape `(N,)`.
        index: Shape `(N,)`, integers that name the candidates.
        k: Number to keep; all if k is N or more.
    """
    place = _places(score, index)
    return ((place < k) & torch.isfinite(score)).float()


def token_budget(score: Tensor, index: Tensor, tokens: Tensor, fraction: float) -> Tensor:
    """Return 1 for the lowest scores that together contain `fraction` of the supervised tokens, else 0.

    Whole samples are added in the order of their scores until the budget is first reached, so the share that is
    really kept is at or above the budget.

    Args:
        score: Shape `(N,)`.
        index: Shape `(N,)`, integers that name the candidates.
        tokens: Shape `(N,)`, int64, supervised tokens of each candidate.
        fraction: Share in (0, 1], taken to the nearest billionth; 1 keeps all.
    """
    return _within(score, index, tokens, _budget(score, tokens, fraction))


def _budget(score: Tensor, tokens: Tensor, fraction: float) -> Tensor:
    """Return the budget in parts of a token, `()`, int64."""
    return round(fraction * _SHARES) * torch.where(torch.isfinite(score), tokens, 0).sum()


def _within(score: Tensor, index: Tensor, tokens: Tensor, budget: Tensor) -> Tensor:
    """Return 1 for the lowest scores until the budget is reached, and for the lowest one in any case."""
    valid = torch.isfinite(score)
    order = _order(score, index)
    counted = torch.where(valid, tokens, 0)[order].long()
    before = counted.cumsum(0) - counted
    kept = torch.zeros_like(score, dtype=torch.float32)
    kept[order] = ((before * _SHARES < budget) | (before == 0)).float()
    return kept * valid


class TokenBudget:
    """A token budget that is kept over a whole run.

    Whole samples overshoot: of eight samples of equal length, a budget of 90% keeps all eight. What a step keeps
    above its budget is therefore taken off the next one's, so that the run as a whole keeps the given share. At
    least one sample is kept in any case.

    Args:
        fraction: Share of the supervised tokens to keep, in (0, 1], taken to the nearest billionth.
        carry: Whether to carry the surplus over; otherwise each step has its own budget.
    """

    def __init__(self, fraction: float, carry: bool = True) -> None:
        self.fraction = fraction
        self.carry = carry
        self._surplus: int | Tensor = 0  # in parts of a token

    def weights(self, score: Tensor, index: Tensor, tokens: Tensor) -> Tensor:
        """Return the weights of an optimizer step's candidates and note the surplus; arguments as in `token_budget`."""
        budget = _budget(score, tokens, self.fraction)
        kept = _within(score, index, tokens, budget - self._surplus)
        if self.carry:
            self._surplus = self._surplus + torch.where(kept > 0, tokens, 0).sum() * _SHARES - budget
        return kept

    @property
    def surplus(self) -> float:
        """Tokens kept so far beyond the budget; reading it waits for the device."""
        return int(self._surplus) / _SHARES

    @surplus.setter
    def surplus(self, tokens: float) -> None:
        self._surplus = round(tokens * _SHARES)


def soft(score: Tensor, index: Tensor, tau: float, keep: int | None = None) -> Tensor:
    """Return weights proportional to exp(-score / tau), the minimiser of <p, s> - tau * H(p) over the simplex.

    Args:
        score: Shape `(N,)`.
        index: Shape `(N,)`, integers that name the candidates.
        tau: Temperature; towards 0 the lowest score takes all, towards infinity all weigh the same.
        keep: Number of the largest weights to keep, renormalised.

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
