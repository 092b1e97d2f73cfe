"""Per-sample losses of a causal language model, with the vocabulary projection at supervised tokens only.

The `(B, T, V)` logits are never built: hidden states are gathered at the supervised positions and projected in
chunks, and the gradient with respect to the hidden states is taken chunk by chunk in the forward pass.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

IGNORED = -100
_CHUNK = 512  # tokens projected at once: 512 x 128k logits in fp32 are 256 MiB


class PerSampleLoss(NamedTuple):
    """`loss` (B,), fp32: mean over each sample's supervised tokens, in nats; `tokens` (B,): how many there are."""

    loss: Tensor
    tokens: Tensor


Batch = Mapping[str, Any]
StartingPoint = Callable[[], AbstractContextManager[None]]


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

    def finish(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Derivative of the finished logits by the projected ones, at finished `logits`."""
        return self.scale if self.softcap is None else self.scale * (1 - (logits / self.softcap).square())


def per_sample_nll(model: nn.Module, batch: Batch) -> PerSampleLoss:
    """Return the mean negative log-likelihood of every sample's supervised tokens.

    Args:
        model: A transformers causal language model, with or without PEFT adapters.
        batch: `input_ids` and `labels` of shape `(B, T)`, labels -100 where unsupervised, and what else the model
            takes (`attention_mask`, `position_ids`). A padding-free batch is one row with `position_ids` that start
            again at 0 with every sample.
    """
    where = _Supervised.of(batch)
    hidden, head = _hidden_states(model, batch), _head(model)
    if head.weight.requires_grad and torch.is_grad_enabled():
        logits = head.finish(head.module(where.padded(hidden)))[where.padded_mask()]
        per_token = nn.functional.cross_entropy(logits, where.labels, reduction="none")
    else:
        per_token = _ChunkedNLL.apply(hidden.flatten(0, 1)[where.index], head, where.labels)
    return where.mean(per_token)


def per_sample_kl(model: nn.Module, batch: Batch, starting_point: StartingPoint) -> PerSampleLoss:
    """Return the mean over every sample's supervised tokens of KL(start || current), in nats.

    Args:
        model: As for `per_sample_nll`.
        batch: As for `per_sample_nll`; labels only say which positions count.
        starting_point: Returns a context in which the model has its starting weights.
    """
    where = _Supervised.of(batch)
    with torch.no_grad(), starting_point():
        start_hidden = _hidden_states(model, batch).flatten(0, 1)[where.index]
        start_weight, start_bias = _start_projection(_head(model))
    hidden, head = _hidden_states(model, batch), _head(model)
    if head.weight.requires_grad and torch.is_grad_enabled():
        logits = head.finish(head.module(where.padded(hidden)))[where.padded_mask()]
        start_logits = head.finish(nn.functional.linear(start_hidden, start_weight, start_bias))
        target = start_logits.log_softmax(-1)
        per_token = nn.functional.kl_div(logits.log_softmax(-1), target, reduction="none", log_target=True).sum(-1)
    else:
        start = (start_hidden, start_weight, start_bias)
        per_token = _ChunkedKL.apply(hidden.flatten(0, 1)[where.index], head, *start)
    return where.mean(per_token)


def _start_projection(head: _Head) -> tuple[Tensor, Tensor | None]:
    # `.data` is read inside the starting context, so these tensors keep the starting values after it ends.
    return head.weight.data, None if head.bias is None else head.bias.data


def _causal_lm(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _hidden_states(model: nn.Module, batch: Batch) -> Tensor:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    hidden: Tensor = _causal_lm(model).base_model(**inputs, use_cache=False).last_hidden_state
    return hidden


def _head(model: nn.Module) -> _Head:
    causal_lm = _causal_lm(model)
    config = causal_lm.config.get_text_config()
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
        module=causal_lm.get_output_embeddings(),
        scale=1.0 if scale is None else float(scale),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


@dataclass(frozen=True)
class _Supervised:
    """The N supervised tokens of a batch: each is predicted at flat position `index[n]`, in sample `sample[n]`."""

    index: Tensor  # (N,)
    sample: Tensor  # (N,)
    labels: Tensor  # (N,)
    batch_size: int

    @classmethod
    def of(cls, batch: Batch) -> "_Supervised":
        labels = batch["labels"]
        next_labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        starts = _sample_starts(batch)
        if starts is not None:
            # The last token of a packed sample must not predict the first one of its neighbour.
            next_labels = next_labels.masked_fill(starts.roll(-1, dims=1), IGNORED)
        rows, columns = (next_labels != IGNORED).nonzero(as_tuple=True)
        sample = rows if starts is None else (starts.cumsum(1)[rows, columns] - 1)
        batch_size = len(labels) if starts is None else int(starts.sum())
        return cls(rows * labels.shape[1] + columns, sample, next_labels[rows, columns], batch_size)

    def mean(self, per_token: Tensor) -> PerSampleLoss:
        tokens = torch.zeros(self.batch_size, dtype=torch.long, device=self.sample.device)
        tokens = tokens.index_add(0, self.sample, torch.ones_like(self.sample))
        total = torch.zeros(self.batch_size, device=per_token.device).index_add(0, self.sample, per_token)
        return PerSampleLoss(total / tokens.clamp_min(1), tokens)

    def padded_mask(self) -> Tensor:
        counts = torch.bincount(self.sample, minlength=self.batch_size)
        return torch.arange(int(counts.max()), device=counts.device) < counts[:, None]

    def padded(self, hidden: Tensor) -> Tensor:
        """Gather the supervised positions of `hidden` `(B, T, D)` into `(B, S, D)`, zero where a sample has fewer."""
        mask = self.padded_mask()
        out = hidden.new_zeros(*mask.shape, hidden.shape[-1])
        out[mask] = hidden.flatten(0, 1)[self.index]
        return out


def sequence_lengths(batch: Batch) -> list[int] | None:
    """Return the lengths of the samples of a padding-free batch, or None for one sample a row."""
    starts = _sample_starts(batch)
    if starts is None:
        return None
    edges = [*starts[0].nonzero().flatten().tolist(), starts.shape[1]]
    return [end - start for start, end in pairwise(edges)]


def _sample_starts(batch: Batch) -> Tensor | None:
    if batch.get("position_ids") is None or batch.get("attention_mask") is not None or len(batch["labels"]) != 1:
        return None
    starts: Tensor = batch["position_ids"] == 0
    return starts


class _ChunkedNLL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: _Head, labels: Tensor) -> Tensor:
        def chunk_loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            log_probs = logits.log_softmax(-1)
            target = labels[part, None]
            loss = -log_probs.gather(1, target).squeeze(1)
            probs = log_probs.exp_()
            return loss, probs.scatter_add_(1, target, torch.full_like(loss, -1.0)[:, None])

        return _by_chunks(ctx, hidden, head, chunk_loss)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled_gradient(ctx, grad_outputs[0]), None, None


class _ChunkedKL(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: _Head, start: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        def chunk_loss(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            target = head.finish(nn.functional.linear(start[part], weight, bias)).log_softmax(-1)
            log_probs = logits.log_softmax(-1)
            loss = (target.exp() * (target - log_probs)).sum(-1)
            return loss, log_probs.exp_().sub_(target.exp_())

        return _by_chunks(ctx, hidden, head, chunk_loss)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return _scaled_gradient(ctx, grad_outputs[0]), None, None, None, None


def _by_chunks(
    ctx: Any, hidden: Tensor, head: _Head, chunk_loss: Callable[[Tensor, slice], tuple[Tensor, Tensor]]
) -> Tensor:
    """Fill the per-token losses chunk by chunk; `chunk_loss` returns them and their gradient by the logits."""
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    losses = torch.empty(len(hidden), device=hidden.device)
    needs_grad = ctx.needs_input_grad[0]
    gradient = torch.empty_like(hidden) if needs_grad else None
    for start in range(0, len(hidden), _CHUNK):
        part = slice(start, start + _CHUNK)
        logits = head.finish(nn.functional.linear(hidden[part], weight, bias))
        slope = head.slope(logits)
        losses[part], by_logits = chunk_loss(logits, part)
        if gradient is not None:
            by_logits = by_logits if isinstance(slope, float) and slope == 1.0 else by_logits * slope
            gradient[part] = by_logits.to(weight.dtype) @ weight
    ctx.save_for_backward(gradient)
    return losses


def _scaled_gradient(ctx: Any, by_loss: Tensor) -> Tensor:
    gradient: Tensor = ctx.saved_tensors[0]
    return (gradient * by_loss[:, None]).to(gradient.dtype)
