"""The self-check of a run's first step: per-sample losses and gradients against the model's own.

Rules are written for layers as we know them, and losses for heads as we know them. Whatever a new architecture does
differently shows here, by name, before the first update.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.capture import Watch
from dualselect.gradients.direction import Direction, Parameters
from dualselect.gradients.losses import Losses, per_sample_nll
from dualselect.gradients.supervised import IGNORED, Batch, sequence_lengths

_SAMPLES = 2
_WEIGHTS = (1.0, 0.5)  # unequal, so that swapped samples differ too
_NAMED = 3


def check_model(
    model: nn.Module,
    params: Parameters,
    batch: Batch,
    *,
    watch: Watch | None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    losses: Callable[[nn.Module, Batch], Losses] = per_sample_nll,
) -> None:
    """Check the two shortest samples of a batch against the model's own forward and backward pass on each alone.

    Dropout is off and no random state is used. Parameters that are all zero, such as B of a fresh LoRA, which hides
    the gradient of A, are moved for the check; weights, `.grad` and modes are afterwards what they were before.

    Args:
        model: The model, not wrapped for distributed training.
        params: The trainable parameters.
        batch: A batch of the task, padded or padding-free, on the model's device.
        watch: Watch of the run on `model`; None compares only the losses.
        autocast: Function that returns the context of the forward pass.
        losses: Function that returns the samples' mean negative log-likelihoods.

    Raises:
        UnsupportedModuleError: The losses differ from the model's own, or the gradients of some parameters do; the
            message names them.
    """
    with _unchanged(model, params):
        chosen, own, own_gradient = _own(model, params, _samples(batch), autocast)
        if not chosen:
            return
        part = _sub_batch(batch, chosen)
        gradient = None
        if watch is None:
            with torch.no_grad(), autocast():
                found = losses(model, part).loss
        else:
            with watch.capture(sequence_lengths(part)) as gradients:
                with autocast():
                    found = losses(model, part).loss
                gradients.backward(found)
            gradient = gradients.weighted_sum(found.new_tensor(_WEIGHTS[: len(chosen)]))
    precision = _precision(model, params, autocast)
    # A loss is rounded a few times, in the hidden states and in the logits. A gradient has passed through all layers
    # twice, in both computations: in bf16 independent roundings add up to some 5% in a deep model. A wrong rule is
    # off by more, mostly by a factor.
    cure = "use another architecture"
    if sequence_lengths(batch) is not None:
        cure = "set packing and padding_free to False, or use another attn_implementation or architecture"
    _compare_losses(model, found.detach(), own, max(1e-3, 4 * precision), cure)
    if gradient is not None:
        _compare_gradients(model, gradient, own_gradient, max(1e-3, 32 * precision))


def _own(
    model: nn.Module, params: Parameters, samples: list[dict[str, Any]], autocast: Callable[[], Any]
) -> tuple[list[int], Tensor, Direction]:
    """Return which samples were used, the model's own loss of each, and the weighted sum of its own gradients."""
    chosen: list[int] = []
    values = []
    for row in sorted(range(len(samples)), key=lambda row: samples[row]["labels"].shape[1]):
        if len(chosen) == _SAMPLES:
            break
        sample = samples[row]
        if bool((sample["labels"][:, 1:] != IGNORED).any()):
            with autocast():
                loss = _own_loss(model, sample)
            if bool(torch.isfinite(loss)):
                (loss * _WEIGHTS[len(chosen)]).backward()
                chosen.append(row)
                values.append(loss.detach().float())
    device = next(iter(params.values())).device
    losses = torch.stack(values).to(device) if values else torch.zeros(0, device=device)
    gradient = Direction.from_grads(params)
    for param in params.values():
        param.grad = None
    return chosen, losses, gradient


def _own_loss(model: nn.Module, sample: Mapping[str, Any]) -> Tensor:
    config: Any = model.config
    # The routers' loss does not belong to a sample; it is not part of the per-sample losses.
    routers = {"output_router_logits": False} if hasattr(config.get_text_config(), "output_router_logits") else {}
    loss: Tensor = model(**sample, **routers, use_cache=False).loss
    return loss


# Samples of a batch, which is padded or one padding-free row.


def _columns(batch: Batch) -> dict[str, Tensor]:
    """Return what a batch has per token, `(B, T)` each, except weights, which the model's own loss does not have."""
    shape = batch["labels"].shape
    return {
        name: values
        for name, values in batch.items()
        if isinstance(values, Tensor) and values.shape[:2] == shape and name != "token_weights"
    }


def _samples(batch: Batch) -> list[dict[str, Any]]:
    """Return each sample as a batch of its own, without padding."""
    columns, lengths = _columns(batch), sequence_lengths(batch)
    if lengths is not None:
        parts = {name: values.split(lengths, dim=1) for name, values in columns.items()}
        samples = [{name: values[row] for name, values in parts.items()} for row in range(len(lengths))]
        return [_without_padding(sample) for sample in samples]
    real = columns.get("attention_mask", torch.ones_like(batch["labels"])).bool()
    return [{name: values[row, real[row]][None] for name, values in columns.items()} for row in range(len(real))]


def _without_padding(sample: dict[str, Any]) -> dict[str, Any]:
    """Leave out the padding at the end of a padding-free row, which counts as the last sample's and has position 0."""
    real = sample["position_ids"][0] != 0
    real[0] = True
    return {name: values[:, real] for name, values in sample.items()}


def _sub_batch(batch: Batch, rows: list[int]) -> dict[str, Any]:
    """Return the samples `rows` of a batch, in the form of the batch."""
    columns, lengths = _columns(batch), sequence_lengths(batch)
    if lengths is not None:
        samples = _samples(batch)
        return {name: torch.cat([samples[row][name] for row in rows], dim=1) for name in columns}
    part = {name: values[rows] for name, values in columns.items()}
    used = part.get("attention_mask", torch.ones_like(part["labels"])).bool().any(0)
    return {name: values[:, used] for name, values in part.items()}


# The model during the check.


@contextmanager
def _unchanged(model: nn.Module, params: Parameters) -> Iterator[None]:
    """Switch dropout off and move parameters that are zero; restore everything afterwards, bit for bit."""
    modes = [(module, module.training) for module in model.modules()]
    grads = {name: param.grad for name, param in params.items()}
    zero = _zero_parameters(params)
    values = {name: param.detach().clone() for name, param in zero.items()}
    model.eval()
    noise = torch.Generator().manual_seed(0)
    try:
        for param in params.values():
            param.grad = None
        with torch.no_grad():
            for param in zero.values():
                param.copy_(0.02 * torch.randn(param.shape, generator=noise))
        # Autocast caches the low-precision copy of a parameter and does not see that its data has changed.
        torch.clear_autocast_cache()
        with torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for name, param in zero.items():
                param.copy_(values[name])
        torch.clear_autocast_cache()
        for name, param in params.items():
            param.grad = grads[name]
        for module, training in modes:
            module.training = training


def _zero_parameters(params: Parameters) -> Parameters:
    is_zero = torch.stack([~param.detach().any() for param in params.values()]).tolist()
    return {name: param for (name, param), zero in zip(params.items(), is_zero, strict=True) if zero}


def _precision(model: nn.Module, params: Parameters, autocast: Callable[[], Any]) -> float:
    """Return the coarsest relative rounding of the computation."""
    device = next(iter(params.values())).device.type
    dtypes = {param.dtype for param in model.parameters() if param.is_floating_point()}
    with autocast():
        if torch.is_autocast_enabled(device):
            dtypes.add(torch.get_autocast_dtype(device))
    return max(torch.finfo(dtype).eps for dtype in dtypes)


# What is compared.


def _compare_losses(model: nn.Module, found: Tensor, own: Tensor, tolerance: float, cure: str) -> None:
    if torch.allclose(found, own, rtol=tolerance, atol=tolerance / 10):
        return
    raise UnsupportedModuleError(
        f"the losses of single samples differ from the model's own ({_listed(found)} against {_listed(own)}): "
        f"{_architecture(model)} computes its logits in an unknown way, or lets the samples of a batch interact; "
        f"{cure} (docs/architectures.md)"
    )


def _compare_gradients(model: nn.Module, found: Direction, own: Direction, tolerance: float) -> None:
    """Compare parameter by parameter; differences that are small beside the whole gradient are rounding."""
    floor = own.norm() * 1e-2
    found_views, excess = found.views(), []
    for name, true in own.views().items():
        error = torch.linalg.vector_norm(found_views[name] - true)
        excess.append(error / (tolerance * (torch.linalg.vector_norm(true) + floor)))
    ratios = torch.stack(excess).tolist()
    if not bool(torch.isfinite(own.norm())):
        return  # an overflow in the model's own pass says nothing about ours
    wrong = sorted(
        ((ratio, name) for ratio, name in zip(ratios, own.views(), strict=True) if not ratio <= 1), reverse=True
    )
    if not wrong:
        return
    names = ", ".join(f"'{name}'" for _, name in wrong[:_NAMED])
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    raise UnsupportedModuleError(
        f"the per-sample gradients of {names}{more} differ from the model's own in {_architecture(model)}: freeze "
        "them (requires_grad=False), leave them out of the adapter's targets, or register a rule for their layers "
        "with dualselect.gradients.register_rule"
    )


def _listed(losses: Tensor) -> str:
    return ", ".join(f"{loss:.4g}" for loss in losses.tolist())


def _architecture(model: Any) -> str:
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
