"""From a batch to the losses of its supervised tokens; the `(B, T, V)` logits are never built.

Hidden states are gathered at the N supervised positions and projected in chunks, and the gradient with respect to the
hidden states is taken chunk by chunk in the forward pass. A head that is itself trained is the exception: its rule
needs the logits' gradient, so the logits of the supervised tokens, and one gradient of the same size and dtype, are
kept until the backward pass.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method

from dualselect.distributed import is_sharded, whole
from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.supervised import Batch, Supervised

_CHUNK = 512  # tokens projected at once: 512 x 128k logits in fp32 are 256 MiB
# Families that look the positions up once for all samples, unless they are given for each: so a trained table of
# positions sees its samples apart.
_POSITION_TABLES = {"gpt2", "gpt_bigcode", "gpt_neo"}
_FURTHER = "forward_of"  # a sharded model's further forward method
_NOT_FOR_THE_MODEL = {"labels", "token_weights", "supervised", "sequence_lengths"}

#: (finished logits (n, V), slice of the tokens) -> (losses (n,), their gradient by these logits (n, V))
TokenLoss = Callable[[Tensor, slice], tuple[Tensor, Tensor]]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Head:
    """The output projection: logits = softcap(scale * (h W^T + b))."""

    module: Any
    scale: float
    softcap: float | None

    @property
    def weight(self) -> Tensor:
        """W, `(V, D)`."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        """b, `(V,)`, or None."""
        bias = getattr(self.module, "bias", None)
        return bias if isinstance(bias, Tensor) else None

    @property
    def is_differentiated(self) -> bool:
        """Whether the projection itself is trained."""
        return self.weight.requires_grad and torch.is_grad_enabled()

    def finish(self, logits: Tensor) -> Tensor:
        """Return the logits, in fp32, from those projected."""
        logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Return the derivative of the finished logits by the projected ones, at finished `logits`."""
        return self.scale if self.softcap is None else self.scale * (1 - (logits / self.softcap).square())


def _causal_lm(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def head_of(model: nn.Module) -> Head:
    """Return the output projection of a causal language model.

    Raises:
        UnsupportedModuleError: It cannot be followed token by token.
    """
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
    return Head(
        module=module,
        scale=1.0 if scale is None else float(scale),
        softcap=getattr(config, "final_logit_softcapping", getattr(config, "logits_soft_cap", None)),
    )


def forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return the last hidden states `(B, T, D)`, and the routers' loss where the model adds one."""
    return _as_forward(model, lambda: _forward(model, batch))


def losses_of_tokens(
    model: nn.Module, batch: Batch, where: Supervised, token_loss: TokenLoss
) -> tuple[Tensor, Tensor | None]:
    """Return the losses of a batch's supervised tokens, `(N,)`, and the routers' loss where the model adds one."""

    def found() -> tuple[Tensor, Tensor | None]:
        hidden, auxiliary = _forward(model, batch)
        return _projected(where.gather(hidden), head_of(model), where, token_loss), auxiliary

    return _as_forward(model, found)


def _as_forward(model: nn.Module, function: Callable[[], Result]) -> Result:
    """Run a function as a forward pass: that of a sharded model within its own hooks, which gather what it owns."""
    if not is_sharded(model):
        return function()
    if not hasattr(model, _FURTHER):
        setattr(model, _FURTHER, MethodType(lambda self, function: function(), model))
        register_fsdp_forward_method(model, _FURTHER)
    result: Result = getattr(model, _FURTHER)(function)
    return result


def _forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
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
    outputs = None if body is causal_lm else body(**inputs, use_cache=False)
    hidden = getattr(outputs, "last_hidden_state", None)
    if not isinstance(hidden, Tensor):
        raise UnsupportedModuleError(
            f"{type(causal_lm).__name__} has no base model that returns the last hidden states, so losses cannot be "
            "split by sample: use another architecture"
        )
    if not has_router_loss:
        return hidden, None
    return hidden, coefficient * _router_loss(causal_lm, getattr(outputs, "router_logits", None), batch)


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


def _projected(hidden: Tensor, head: Head, where: Supervised, token_loss: TokenLoss) -> Tensor:
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
    def forward(ctx: Any, features: Tensor, head: Head, project: bool, token_loss: TokenLoss) -> Tensor:
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
