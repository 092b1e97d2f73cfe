"""A loss that learns the tokens that a guard trusts, and keeps the starting model's predictions of the others."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from dualselect.gradients.losses import Losses, StartingPoint, TokenNLL, means_of, start_log_probs
from dualselect.gradients.projection import head_of
from dualselect.gradients.supervised import Batch, Supervised

#: Returns a divergence from the starting model of n tokens, `(n,)`, and its gradient by the logits, `(n, V)`, given
#: the log-probabilities of both models, `(n, V)` each, and the labels, `(n, 1)`.
Divergence = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def per_sample_guarded(
    model: nn.Module,
    batch: Batch,
    *,
    kl_weight: float,
    divergence: str = "kl",
    starting_point: StartingPoint | None = None,
    statistics: bool = False,
) -> Losses:
    """Return the mean over every sample's supervised tokens of v nll + (1 - v) kl_weight divergence.

    Args:
        model: As for `per_sample_nll`.
        batch: As for `per_sample_nll`; its `token_weights` are the trust v in each label, in [0, 1]. The mean is over
            all supervised tokens, whatever their v.
        kl_weight: Weight of the divergence from the starting model; 0 leaves it out.
        divergence: One of `DIVERGENCES`.
        starting_point: Returns a context in which the model has its starting weights; needed for the divergence.
        statistics: Whether to fill `correct` and `entropy`.

    Raises:
        UnsupportedModuleError: As for `per_sample_nll`.
    """
    where = Supervised.of(batch, by_sample=head_of(model).is_differentiated)
    trust, where = where.weights, replace(where, weights=None)
    assert trust is not None
    nll = TokenNLL(where.labels, statistics)
    start = None
    if kl_weight and starting_point is not None:
        start = start_log_probs(starting_point, model, batch, where)

    def token_loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        loss, by_logits = nll(logits, part)
        v = trust[part]
        loss, by_logits = loss * v, by_logits.mul_(v[:, None])
        if start is None:
            return loss, by_logits
        labels = where.labels[part, None].clamp_min(0)
        other, by_logits_of_other = DIVERGENCES[divergence](logits.log_softmax(-1), start(part), labels)
        weight = kl_weight * (1.0 - v)
        return loss + weight * other, by_logits.add_(by_logits_of_other.mul_(weight[:, None]))

    losses = means_of(token_loss, model, batch, where)._replace(mass=where.sum(trust))
    return nll.with_statistics(losses, where)


def _kl(log_probs: Tensor, start: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(current || start) over the vocabulary."""
    ratio, probs = log_probs - start, log_probs.exp()
    loss = (probs * ratio).sum(-1)
    return loss, probs.mul_(ratio.sub_(loss[:, None]))


def _k2(log_probs: Tensor, start: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return half the squared log-ratio of the label, whose slope is the log-ratio times that of log p."""
    ratio = (log_probs - start).gather(1, labels)
    by_logits = log_probs.exp().mul_(-ratio)
    return 0.5 * ratio[:, 0].square(), by_logits.scatter_add_(1, labels, ratio)


DIVERGENCES: dict[str, Divergence] = {"kl": _kl, "k2": _k2}
