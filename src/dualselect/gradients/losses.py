"""Per-sample losses of a causal language model, with the vocabulary projection at supervised tokens only.

The `(B, T, V)` logits are never built: hidden states are gathered at the N supervised positions and projected in
chunks, and the gradient with respect to the hidden states is taken chunk by chunk in the forward pass. A head that is
itself trained is the exception: its rule needs the logits' gradient, so the logits of the supervised tokens, and one
gradient of the same size and dtype, are kept until the backward pass.
"""

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from dualselect.distributed import is_sharded, whole
from dualselect.errors import UnsupportedModuleError

IGNORED = -100
_CHUNK = 512  # tokens projected at once: 512 x 128k logits in fp32 are 256 MiB
# Families that look the positions up once for all samples, unless they are given for each: so a trained table of
# positions sees its samples apart.
_POSITION_TABLES = {"gpt2", "gpt_bigcode", "gpt_neo"}
_BODY = "forward_without_head"  # a sharded model's further forward method
_NOT_FOR_THE_MODEL = {"labels", "token_weights", "supervised", "sequence_lengths"}

Batch = Mapping[str, Any]
StartingPoint = Callable[[], AbstractContextManager[None]]

#: Returns what tokens weigh in their sample's loss, `(n,)`, given their negative log-likelihoods, `(n,)`.
Reweigh = Callable[[Tensor], Tensor]

# (finished logits (n, V), slice of the tokens) -> (losses (n,), their gradient by these logits (n, V))
_TokenLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]


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
    """

    loss: Tensor
    tokens: Tensor
    auxiliary: Tensor | None = None
    correct: Tensor | None = None
    entropy: Tensor | None = None
    mass: Tensor | None = None


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
        reweigh: Weight of each token's loss, as a function of that loss; it counts as a constant in the gradient. The
            mean is still over all supervised tokens.
        kl_weight: Weight of KL(start || current), which is added to each token's loss.
        starting_point: Returns a context in which the model has its starting weights; only for `kl_weight`.

    Raises:
        UnsupportedModuleError: The model's output projection or router loss cannot be followed.
    """
    head = _head(model)
    where = _Supervised.of(batch, by_sample=head.is_differentiated)
    token_loss = _NLL(where.labels, statistics, reweigh)
    whole: _TokenLoss = token_loss
    if kl_weight and starting_point is not None:
        whole = _sum_of(token_loss, kl_weight, _kl_from(starting_point, model, batch, where))
    hidden, auxiliary = _forward(model, batch)
    per_token = _losses_of_tokens(where.gather(hidden), head, where, whole)
    losses = where.mean(per_token)._replace(auxiliary=auxiliary)
    if reweigh is not None:
        losses = losses._replace(mass=where.sum(token_loss.weights()))
    if statistics:
        correct, entropy = token_loss.statistics()
        losses = losses._replace(correct=where.sum(correct), entropy=where.sum(entropy))
    return losses


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
    head = _head(model)
    where = _Supervised.of(batch, by_sample=False)
    hidden, _ = _forward(model, batch)
    return _losses_of_tokens(where.gather(hidden), head, where, _NLL(where.labels))


def per_sample_kl(model: nn.Module, batch: Batch, starting_point: StartingPoint) -> Losses:
    """Return the mean over every sample's supervised tokens of KL(start || current), in nats.

    Args:
        model: As for `per_sample_nll`.
        batch: As for `per_sample_nll`; labels only say which positions count.
        starting_point: Function that returns a context in which the model has its starting weights.

    Raises:
        UnsupportedModuleError: As for `per_sample_nll`.
    """
    head = _head(model)
    where = _Supervised.of(batch, by_sample=head.is_differentiated)
    token_loss = _kl_from(starting_point, model, batch, where)
    hidden, auxiliary = _forward(model, batch)
    per_token = _losses_of_tokens(where.gather(hidden), head, where, token_loss)
    return where.mean(per_token)._replace(auxiliary=auxiliary)


def _kl_from(starting_point: StartingPoint, model: nn.Module, batch: Batch, where: "_Supervised") -> _TokenLoss:
    """Return KL(start || current) of tokens as a function of the current logits; runs the starting model once."""
    head = _head(model)
    with torch.no_grad(), starting_point():
        start_hidden, _ = _forward(model, batch)
        # `.data` is read inside the starting context, so these tensors keep the starting values after it ends.
        start = _head(model)
        weight, bias = whole(start.weight.data), None if start.bias is None else whole(start.bias.data)
    start_features = where.gather(start_hidden)

    def token_loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        target = head.finish(nn.functional.linear(start_features[part], weight, bias)).log_softmax(-1)
        log_probs = logits.log_softmax(-1)
        loss = (target.exp() * (target - log_probs)).sum(-1)
        return loss, log_probs.exp_().sub_(target.exp_())

    return token_loss


def _sum_of(first: _TokenLoss, weight: float, second: _TokenLoss) -> _TokenLoss:
    """Return first + weight * second."""

    def token_loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        loss, by_logits = first(logits, part)
        other, by_logits_of_other = second(logits, part)
        return loss + weight * other, by_logits.add_(by_logits_of_other, alpha=weight)

    return token_loss


class _NLL:
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
        weights = self._reweigh(loss)
        self._weights.append(weights)
        return loss * weights, by_logits.mul_(weights[:, None])

    def weights(self) -> Tensor:
        """Return the weight of every token, `(N,)`."""
        return torch.cat(self._weights) if self._weights else torch.zeros(0, device=self._labels.device)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return top-1 hits and entropy of every token, `(N,)` each."""
        if not self._found:
            return torch.zeros_like(self._labels), torch.zeros(len(self._labels), device=self._labels.device)
        hits, entropy = zip(*self._found, strict=True)
        return torch.cat(hits), torch.cat(entropy)


# Parts of the model.


@dataclass(frozen=True)
class _Head:
    """The output projection: logits = softcap(scale * (h W^T + b))."""

    module: Any
    scale: float
    softcap: float | None

    @property
    def weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias = getattr(self.module, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def is_differentiated(self) -> bool:
        return self.weight.requires_grad and torch.is_grad_enabled()

    def finish(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the finished logits by the projected ones, at finished `logits`."""
        return self.scale if self.softcap is None else self.scale * (1 - (logits / self.softcap).square())


def _causal_lm(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _head(model: nn.Module) -> _Head:
    causal_lm = _causal_lm(model)
    config = causal_lm.config.get_text_config()
    module = causal_lm.get_output_embeddings()
    if not isinstance(getattr(module, "weight", None), Tensor):
        raise UnsupportedModuleError(
            f"{type(causal_lm).__name__} has no output projection whose logits could be computed token by token: "
            "use another architecture"
        )
    if hasattr(module, "base_layer"):
        raise UnsupportedModuleError(
            "the adapter targets the output projection, whose logits are computed from its own weight alone: leave it "
            "out of target_modules, or train it whole (modules_to_save=['lm_head'])"
        )
    # The names under which transformers' families scale their logits; Granite divides, the others multiply.
    scale = next(
        (
            value
            for name in ("logit_scale", "output_multiplier", "lm_head_multiplier")
            if (value := getattr(config, name, None)) is not None
        ),
        None,
    )
    if scale is None and getattr(config, "logits_scaling", None) is not None:
        scale = config.logits_scaling if config.model_type == "hyperclovax" else 1 / config.logits_scaling
    return _Head(
        module=module,
        scale=1.0 if scale is None else float(scale),
        softcap=getattr(config, "final_logit_softcapping", getattr(config, "logits_soft_cap", None)),
    )


def _forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return the last hidden states `(B, T, D)`, and the routers' loss where the model adds one."""
    causal_lm = _causal_lm(model)
    config = causal_lm.config.get_text_config()
    inputs = {name: value for name, value in batch.items() if name not in _NOT_FOR_THE_MODEL}
    coefficient = getattr(config, "router_aux_loss_coef", None) or 0.0
    has_router_loss = bool(getattr(config, "output_router_logits", False)) and coefficient != 0.0
    if has_router_loss:
        inputs["output_router_logits"] = True
    if config.model_type in _POSITION_TABLES and inputs.get("position_ids") is None:
        batch_size, length = batch["labels"].shape
        inputs["position_ids"] = torch.arange(length, device=batch["labels"].device).expand(batch_size, length)
    body = causal_lm.base_model
    outputs = None if body is causal_lm else _call_body(model, inputs)
    hidden = getattr(outputs, "last_hidden_state", None)
    if not isinstance(hidden, Tensor):
        raise UnsupportedModuleError(
            f"{type(causal_lm).__name__} has no base model that returns the last hidden states, so losses cannot be "
            "split by sample: use another architecture"
        )
    if not has_router_loss:
        return hidden, None
    return hidden, coefficient * _router_loss(causal_lm, getattr(outputs, "router_logits", None), batch)


def _call_body(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """Run the model without its head; one that is sharded by its own hooks, which gather what no layer owns."""
    if not is_sharded(model):
        return _causal_lm(model).base_model(**inputs, use_cache=False)
    if not hasattr(model, _BODY):
        setattr(model, _BODY, MethodType(lambda self, **given: _causal_lm(self).base_model(**given), model))
        register_fsdp_forward_method(model, _BODY)
    return getattr(model, _BODY)(**inputs, use_cache=False)


def _router_loss(causal_lm: Any, router_logits: Any, batch: Batch) -> Tensor:
    """Return the load-balancing loss of a batch, as the model's own forward computes it."""
    module = sys.modules[type(causal_lm).__module__]
    function = getattr(module, "load_balancing_loss_func", None)
    expected = ["gate_logits", "num_experts", "top_k", "attention_mask"]
    config = causal_lm.config.get_text_config()
    experts, chosen = (
        getattr(causal_lm, name, getattr(config, name, None)) for name in ("num_experts", "num_experts_per_tok")
    )
    if (
        function is None
        or list(inspect.signature(function).parameters) != expected
        or not isinstance(router_logits, tuple)
        or None in (experts, chosen)
    ):
        raise UnsupportedModuleError(
            f"the routers of {type(causal_lm).__name__} have an auxiliary loss that cannot be computed beside the "
            "samples' losses: train without it (router_aux_loss_coef=0)"
        )
    loss: Tensor = function(router_logits, experts, chosen, batch.get("attention_mask"))
    return loss


# Where the supervised tokens are.


@dataclass(frozen=True)
class _Supervised:
    """The supervised tokens of a batch: token n is predicted at flat position `index[n]`, in sample `sample[n]`.

    Side by side they are the N supervised tokens; by sample they are B rows of S, where the label of padding
    is -100.
    """

    index: Tensor  # (N,) or (B * S,)
    sample: Tensor  # same shape, as the following ones
    labels: Tensor
    weights: Tensor | None
    batch_size: int
    row: int | None  # S, or None

    @classmethod
    def of(cls, batch: Batch, *, by_sample: bool) -> "_Supervised":
        next_labels = _next_labels(batch)
        index = batch.get("supervised")
        if index is None:
            index = _flat_positions(next_labels)
        lengths = sequence_lengths(batch)
        sample = index // next_labels.shape[1]
        if lengths is not None:
            sample = (_starts(batch).cumsum(1) - 1).flatten()[index]
        weights = batch.get("token_weights")
        if weights is not None:
            weights = _shifted(weights, 0).flatten()[index].float()
        batch_size = len(next_labels) if lengths is None else len(lengths)
        tokens = cls(index, sample, next_labels.flatten()[index], weights, batch_size, None)
        return tokens.by_sample() if by_sample else tokens

    def by_sample(self) -> "_Supervised":
        """Return the same tokens as B rows of equal length."""
        counts = self.sum(torch.ones_like(self.sample))
        row = max(int(counts.max()), 1)
        rank = torch.arange(len(self.sample), device=self.sample.device) - (counts.cumsum(0) - counts)[self.sample]
        slot = self.sample * row + rank

        def spread(values: Tensor, fill: int) -> Tensor:
            return values.new_full((self.batch_size * row,), fill).scatter(0, slot, values)

        return _Supervised(
            spread(self.index, 0),
            torch.arange(self.batch_size * row, device=slot.device) // row,
            spread(self.labels, IGNORED),
            None if self.weights is None else spread(self.weights, 0),
            self.batch_size,
            row,
        )

    def gather(self, hidden: Tensor) -> Tensor:
        """Return the hidden states of `(B, T, D)` at these positions, one row per token, zero where there is none."""
        rows = hidden.flatten(0, 1).index_select(0, self.index)
        return rows if self.row is None else rows.masked_fill(~self._real[:, None], 0.0)

    def mean(self, per_token: Tensor) -> Losses:
        weights = self._real.float() if self.weights is None else self.weights * self._real
        mass = self.sum(weights)
        loss = self.sum(per_token * weights) / mass.where(mass > 0, 1.0)
        return Losses(loss, self.sum(self._real.long()))

    def sum(self, per_token: Tensor) -> Tensor:
        """Return the sum over each sample's tokens, `(B,)`."""
        total = torch.zeros(self.batch_size, dtype=per_token.dtype, device=per_token.device)
        return total.index_add(0, self.sample, per_token.masked_fill(~self._real, 0))

    @property
    def _real(self) -> Tensor:
        return self.labels != IGNORED


def supervised_positions(batch: Batch, size: int | None = None) -> dict[str, Any]:
    """Return what a collator can add to its batch, so that no step waits for the device to find positions.

    Args:
        batch: Batch as for `per_sample_nll`, on the CPU.
        size: Number of samples of a padding-free batch; if given, padding at the end of the row is not read as samples.

    Returns:
        `supervised`: flat positions `row * T + column` whose next token is supervised, ascending, `(N,)` int64; and for
        a padding-free batch `sequence_lengths`: the samples' lengths, a list.
    """
    positions: dict[str, Any] = {"supervised": _flat_positions(_next_labels(batch))}
    lengths = sequence_lengths(batch)
    if lengths is None:
        return positions
    last = (size or len(lengths)) - 1
    return positions | {"sequence_lengths": [*lengths[:last], sum(lengths[last:])]}


def sequence_lengths(batch: Batch) -> list[int] | None:
    """Return the lengths of the samples of a padding-free batch, or None for one sample per row.

    Waits for the device unless the batch contains them as `sequence_lengths`, see `supervised_positions`.
    """
    if batch.get("sequence_lengths") is not None:
        return list(batch["sequence_lengths"])
    if not _is_joined(batch):
        return None
    starts = _starts(batch)
    edges = [*starts[0].nonzero().flatten().tolist(), starts.shape[1]]
    return [end - start for start, end in pairwise(edges)]


def _is_joined(batch: Batch) -> bool:
    if batch.get("sequence_lengths") is not None:
        return True
    return batch.get("position_ids") is not None and batch.get("attention_mask") is None and len(batch["labels"]) == 1


def _starts(batch: Batch) -> Tensor:
    starts: Tensor = batch["position_ids"] == 0
    return starts


def _next_labels(batch: Batch) -> Tensor:
    """Return for each position the label that it predicts, `(B, T)`."""
    next_labels = _shifted(batch["labels"], IGNORED)
    if _is_joined(batch):
        # The last token of a sample must not predict the first one of its neighbour.
        next_labels = next_labels.masked_fill(_starts(batch).roll(-1, dims=1), IGNORED)
    return next_labels


def _shifted(values: Tensor, fill: int) -> Tensor:
    return nn.functional.pad(values[:, 1:], (0, 1), value=fill)


def _flat_positions(next_labels: Tensor) -> Tensor:
    return (next_labels != IGNORED).flatten().nonzero().squeeze(1)


# Losses and their gradient, chunk by chunk.


def _losses_of_tokens(hidden: Tensor, head: _Head, where: _Supervised, token_loss: _TokenLoss) -> Tensor:
    """Return the losses of tokens with hidden states `(N, D)`, shape `(N,)`."""
    if head.weight.shape[-1] != hidden.shape[-1]:
        raise UnsupportedModuleError(
            f"the output projection takes {head.weight.shape[-1]} features, the last hidden states have "
            f"{hidden.shape[-1]}: the step between them is unknown, so losses cannot be split by sample; "
            "use another architecture (docs/architectures.md)"
        )
    if where.row is None:
        losses = _Chunked.apply(hidden, head, True, token_loss)
    else:  # by sample, as the head's rule needs them
        logits = head.module(hidden.unflatten(0, (where.batch_size, where.row)))
        losses = _Chunked.apply(logits.flatten(0, 1), head, False, token_loss)
    assert isinstance(losses, Tensor)
    return losses


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, head: _Head, project: bool, token_loss: _TokenLoss) -> Tensor:
        """Return the losses of N tokens from hidden states `(N, D)`, to project, or from projected logits `(N, V)`."""
        weight, bias = whole(head.weight.detach()), None if head.bias is None else whole(head.bias.detach())
        losses = torch.empty(len(features), device=features.device)
        gradient = torch.empty_like(features) if ctx.needs_input_grad[0] else None
        for start in range(0, len(features), _CHUNK):
            part = slice(start, start + _CHUNK)
            logits = nn.functional.linear(features[part], weight, bias) if project else features[part]
            logits = head.finish(logits)
            slope = head.slope(logits)
            losses[part], by_logits = token_loss(logits, part)
            if gradient is not None:
                by_logits = by_logits if isinstance(slope, float) and slope == 1.0 else by_logits * slope
                gradient[part] = by_logits.to(weight.dtype) @ weight if project else by_logits
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_outputs[0][:, None]).to(gradient.dtype), None, None, None
