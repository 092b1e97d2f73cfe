"""Per-sample losses of a causal language model, with the vocabulary projection at supervised tokens only.

`supervised.py` says where the supervised tokens are, `projection.py` makes losses of their hidden states.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dualselect.distributed import is_sharded, whole
from dualselect.gradients.projection import TokenLoss, forward, head_of, losses_of_tokens
from dualselect.gradients.supervised import Batch, Supervised

StartingPoint = Callable[[], AbstractContextManager[None]]

#: Returns what tokens weigh in their sample's loss, `(n,)`, given their negative log-likelihoods, `(n,)`, and the
#: logits that they were predicted with, `(n, V)`.
Reweigh = Callable[[Tensor, Tensor], Tensor]


class Losses(NamedTuple):
    """Losses and statistics of the B samples of a batch after the forward pass.

    Attributes:
        loss: Mean over each sample's supervised tokens, weighted where the batch has `token_weights`; `(B,)`, fp32,
            nats. Zero for a sample without supervised tokens.
        tokens: Supervised tokens, `(B,)`, int64.
        auxiliary: Load-balancing loss of the routers of a mixture of experts, already times its coefficient; `()`, with
            graph. It belongs to the whole batch, not to a sample. Shares its graph with `loss`: differentiate it first,
            and retain the graph. None where the model adds no such loss.
        correct: Supervised tokens that the model ranks first, `(B,)`, int64; None unless requested.
        entropy: Entropy of the predicted distribution, summed over supervised tokens, `(B,)`, fp32, nats; None unless
            requested.
        mass: Sum of the weights that tokens were given by `reweigh`, `(B,)`, fp32; None without it.
        measured: What else the forward pass found of every sample, by name, `(B, ...)` each; empty unless a method or a
            measure adds it. Values of shape `(B,)` reach a method's `weights` as `scores.measured`.
    """

    loss: Tensor
    tokens: Tensor
    auxiliary: Tensor | None = None
    correct: Tensor | None = None
    entropy: Tensor | None = None
    mass: Tensor | None = None
    measured: Mapping[str, Tensor] = MappingProxyType({})

    def detached(self) -> "Losses":
        """Return the same without a graph."""
        own = {name: value.detach() for name, value in self._asdict().items() if isinstance(value, Tensor)}
        return Losses(**own, measured={name: value.detach() for name, value in self.measured.items()})


def per_sample_nll(
    model: nn.Module,
    batch: Batch,
    *,
    statistics: bool = False,
    reweigh: Reweigh | None = None,
    kl_weight: float = 0.0,
    starting_point: StartingPoint | None = None,
) -> Losses:
    """Return the mean negative log-likelihood of every sample's supervised tokens.

    Waits for the device once, to find the supervised positions, and once more where the head is trained or the batch
    is padding-free; `supervised_positions` takes the first and the last of these waits to the collator.

    Args:
        model: Causal language model of transformers, with or without PEFT adapters.
        batch: `input_ids` and `labels` of shape `(B, T)`, labels -100 where unsupervised, and what else the model
            takes (`attention_mask`, `position_ids`). A padding-free batch is one row with `position_ids` that start
            again at 0 with every sample. Optional: `token_weights` `(B, T)`, the weight of each label in its sample's
            mean, and what `supervised_positions` returns.
        statistics: Whether to fill `correct` and `entropy`.
        reweigh: Weight of each token's loss, as a function of that loss and of the logits; it counts as a constant in
            the gradient. The mean is still over all supervised tokens.
        kl_weight: Weight of KL(start || current), which is added to each token's loss.
        starting_point: Returns a context in which the model has its starting weights; only for `kl_weight`.

    Raises:
        UnsupportedModuleError: The model's output projection or router loss cannot be followed.
    """
    where = Supervised.of(batch, by_sample=head_of(model).is_differentiated)
    token_loss = TokenNLL(where.labels, statistics, reweigh)
    whole: TokenLoss = token_loss
    if kl_weight and starting_point is not None:
        whole = _sum_of(token_loss, kl_weight, _kl_from(starting_point, model, batch, where))
    losses = means_of(whole, model, batch, where)
    if reweigh is not None:
        losses = losses._replace(mass=where.sum(token_loss.weights()))
    return token_loss.with_statistics(losses, where)


def means_of(token_loss: TokenLoss, model: nn.Module, batch: Batch, where: Supervised) -> Losses:
    """Run the model and return the mean of every sample's token losses, without statistics."""
    per_token, auxiliary = losses_of_tokens(model, batch, where, token_loss)
    return Losses(where.mean(per_token), where.counts(), auxiliary)


@torch.no_grad()
def per_token_nll(model: nn.Module, batch: Batch) -> Tensor:
    """Return the negative log-likelihood of every supervised token, without a graph.

    Args:
        model: As for `per_sample_nll`.
        batch: As for `per_sample_nll`; token weights do not count.

    Returns:
        Shape `(N,)`, fp32, nats: sample by sample, by position within each.

    Raises:
        UnsupportedModuleError: As for `per_sample_nll`.
    """
    where = Supervised.of(batch, by_sample=False)
    return losses_of_tokens(model, batch, where, TokenNLL(where.labels))[0]


def last_hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    """Return the last hidden states of a batch, `(B, T, D)`; arguments and errors as for `per_sample_nll`."""
    return forward(model, batch)[0]


def per_sample_kl(model: nn.Module, batch: Batch, starting_point: StartingPoint) -> Losses:
    """Return the mean over every sample's supervised tokens of KL(start || current), in nats.

    Args:
        model: As for `per_sample_nll`.
        batch: As for `per_sample_nll`; labels only say which positions count.
        starting_point: Function that returns a context in which the model has its starting weights.

    Raises:
        UnsupportedModuleError: As for `per_sample_nll`.
    """
    where = Supervised.of(batch, by_sample=head_of(model).is_differentiated)
    return means_of(_kl_from(starting_point, model, batch, where), model, batch, where)


def _kl_from(starting_point: StartingPoint, model: nn.Module, batch: Batch, where: Supervised) -> TokenLoss:
    """Return KL(start || current) of tokens as a function of the current logits; runs the starting model once."""
    start = start_log_probs(starting_point, model, batch, where)

    def token_loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        target, log_probs = start(part), logits.log_softmax(-1)
        loss = (target.exp() * (target - log_probs)).sum(-1)
        return loss, log_probs.exp_().sub_(target.exp_())

    return token_loss


def start_log_probs(
    starting_point: StartingPoint, model: nn.Module, batch: Batch, where: Supervised
) -> Callable[[slice], Tensor]:
    """Return the starting model's log-probabilities of tokens, `(n, V)`, as a function of which; runs it once."""
    head = head_of(model)
    with torch.no_grad(), starting_point():
        start_hidden, _ = forward(model, batch)
        # `.data` is read inside the starting context, so these tensors keep the starting values after it ends.
        start = head_of(model)
        weight, bias = _kept(model, start.weight), None if start.bias is None else _kept(model, start.bias)
    start_features = where.gather(start_hidden)
    return lambda part: head.finish(nn.functional.linear(start_features[part], weight, bias)).log_softmax(-1)


def _kept(model: nn.Module, values: Tensor) -> Tensor:
    """Return the values of a parameter of the head, which stay what they are when the parameter gets others."""
    # FSDP2 gathers a parameter into the same memory every time.
    return whole(values.data).clone() if is_sharded(model) else values.data


def _sum_of(first: TokenLoss, weight: float, second: TokenLoss) -> TokenLoss:
    """Return first + weight * second."""

    def token_loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        loss, by_logits = first(logits, part)
        other, by_logits_of_other = second(logits, part)
        return loss + weight * other, by_logits.add_(by_logits_of_other, alpha=weight)

    return token_loss


class TokenNLL:
    """Negative log-likelihood of the labels `(N,)`, reweighed, and on request further statistics of the same logits."""

    def __init__(self, labels: Tensor, statistics: bool = False, reweigh: Reweigh | None = None) -> None:
        self._labels = labels.clamp_min(0)  # positions without a label are left out of every sum
        self._wanted, self._reweigh = statistics, reweigh
        self._found: list[tuple[Tensor, Tensor]] = []
        self._weights: list[Tensor] = []

    def __call__(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        log_probs = logits.log_softmax(-1)
        target = self._labels[part, None]
        loss = -log_probs.gather(1, target).squeeze(1)
        hits = log_probs.argmax(-1) == target[:, 0] if self._wanted else None
        probs = log_probs.exp_()
        if hits is not None:
            self._found.append((hits.long(), torch.special.entr(probs).sum(-1)))
        by_logits = probs.scatter_add_(1, target, torch.full_like(loss, -1.0)[:, None])
        if self._reweigh is None:
            return loss, by_logits
        weights = self._reweigh(loss, logits)
        self._weights.append(weights)
        return loss * weights, by_logits.mul_(weights[:, None])

    def weights(self) -> Tensor:
        """Return the weight of every token, `(N,)`."""
        return torch.cat(self._weights) if self._weights else torch.zeros(0, device=self._labels.device)

    def with_statistics(self, losses: Losses, where: Supervised) -> Losses:
        """Return the losses with every sample's top-1 hits and entropy, if they were requested."""
        if not self._wanted:
            return losses
        hits, entropy = torch.zeros_like(self._labels), torch.zeros(len(self._labels), device=self._labels.device)
        if self._found:
            hits, entropy = (torch.cat(values) for values in zip(*self._found, strict=True))
        return losses._replace(correct=where.sum(hits), entropy=where.sum(entropy))
