"""The self-check of a run's first step: per-sample losses and gradients against the model's own.

Rules are written for layers as we know them, and losses for heads as we know them. Whatever a new architecture does
differently shows here, by name, before the first update.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dualselect.distributed import world_size
from dualselect.errors import UnsupportedModuleError
from dualselect.gradients.capture import PerSampleGradients, Watch
from dualselect.gradients.direction import Direction, Layout, Parameters, gradient_of
from dualselect.gradients.losses import Losses, per_sample_nll
from dualselect.gradients.metrics import by_parameter
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
        chosen, own, own_gradients = _own(model, params, _samples(batch), autocast)
        if not chosen:
            return
        part = _sub_batch(batch, chosen)
        gradients = None
        if watch is None:
            with torch.no_grad(), autocast():
                found = losses(model, part).loss
        else:
            directions = {str(row): gradient for row, gradient in enumerate(own_gradients)}
            keep = not watch.layout.is_sharded
            with watch.capture(sequence_lengths(part), keep=keep, directions=directions) as gradients:
                with autocast():
                    found = losses(model, part).loss
                gradients.backward(found)
    precision = _precision(model, params, autocast)
    # A loss is rounded a few times, in the hidden states and in the logits. A gradient has passed through all layers
    # twice, in both computations: in bf16 independent roundings add up to some 5% in a deep model. A wrong rule is
    # off by more, mostly by a factor.
    cure = "use another architecture"
    if sequence_lengths(batch) is not None:
        cure = "set packing and padding_free to False, or use another attn_implementation or architecture"
    _compare_losses(model, found.detach(), own, max(1e-3, 4 * precision), cure)
    if gradients is not None:
        compare = _excess_of_parts if gradients.layout.is_sharded else _excess
        _refuse_wrong(model, gradients.layout.names, compare(gradients, own_gradients, 32 * precision))


def _own(
    model: nn.Module, params: Parameters, samples: list[dict[str, Any]], autocast: Callable[[], Any]
) -> tuple[list[int], Tensor, list[Direction]]:
    """Return which samples were used, and the model's own loss and gradient of each."""
    chosen: list[int] = []
    values, gradients = [], []
    for row in sorted(range(len(samples)), key=lambda row: samples[row]["labels"].shape[1]):
        if len(chosen) == _SAMPLES:
            break
        sample = samples[row]
        if bool((sample["labels"][:, 1:] != IGNORED).any()):
            with autocast():
                loss = _own_loss(model, sample)
            if bool(torch.isfinite(loss)):
                chosen.append(row)
                values.append(loss.detach().float())
                gradients.append(gradient_of(loss, params))
    for gradient in gradients:
        if gradient.layout.is_sharded:  # the sum of what all processes found
            gradient.scale(1 / world_size())
    device = next(iter(params.values())).device
    losses = torch.stack(values).to(device) if values else torch.zeros(0, device=device)
    return chosen, losses, gradients


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
    if Layout.of(params).is_sharded:  # all of the model is trained, so none is a product's other factor
        return {}
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


# By how much the gradients of every parameter, `(K,)`, differ from the model's own, as a multiple of what may be
# rounding. Differences that are small beside the whole gradient are.


def _excess(gradients: PerSampleGradients, own: list[Direction], tolerance: float) -> Tensor:
    """Compare the weighted sum over samples."""
    weights = own[0].vector.new_tensor(_WEIGHTS[: len(own)])
    error = gradients.weighted_sum(weights)
    true = Direction(error.layout, torch.zeros_like(error.vector))
    for weight, gradient in zip(weights, own, strict=True):
        true.axpy(weight, gradient)
        error.axpy(-weight, gradient)
    errors, norms = (by_parameter(g.layout, g.vector, g.vector).sqrt() for g in (error, true))
    return _ratios(errors, norms, true.norm(), max(1e-3, tolerance))


def _excess_of_parts(gradients: PerSampleGradients, own: list[Direction], tolerance: float) -> Tensor:
    """Compare each sample by |g - own|^2 = |g|^2 - 2 <g, own> + |own|^2, since no process has all of a gradient g."""
    found, ratios = gradients.parts(None), []
    for row, true in enumerate(own):
        squares = true.layout.total(by_parameter(true.layout, true.vector, true.vector))
        errors = found[row] - 2 * gradients.parts(true)[row] + squares
        # What is left of the squares' rounding, some 1e-6, is their root.
        ratios.append(_ratios(errors.clamp_min(0.0).sqrt(), squares.sqrt(), true.norm(), max(1e-2, tolerance)))
    return torch.stack(ratios).amax(0)


def _ratios(errors: Tensor, norms: Tensor, norm: Tensor, tolerance: float) -> Tensor:
    ratios = errors / (tolerance * (norms + 1e-2 * norm))
    return torch.where(torch.isfinite(norm), ratios, 0.0)  # an overflow in the model's own pass says nothing about ours


def _refuse_wrong(model: nn.Module, names: Sequence[str], excess: Tensor) -> None:
    wrong = sorted(
        ((ratio, name) for ratio, name in zip(excess.tolist(), names, strict=True) if not ratio <= 1), reverse=True
    )
    if not wrong:
        return
    named = ", ".join(f"'{name}'" for _, name in wrong[:_NAMED])
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    raise UnsupportedModuleError(
        f"the per-sample gradients of {named}{more} differ from the model's own in {_architecture(model)}: freeze "
        "them (requires_grad=False), leave them out of the adapter's targets, or register a rule for their layers "
        "with dualselect.gradients.register_rule"
    )


def _listed(losses: Tensor) -> str:
    return ", ".join(f"{loss:.4g}" for loss in losses.tolist())


def _architecture(model: Any) -> str:
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__
