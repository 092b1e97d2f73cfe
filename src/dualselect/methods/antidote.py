"""Antidote: after fine-tuning, set the weights that matter most for harmful data to zero."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dualselect.distributed import sum_over_processes
from dualselect.errors import ConfigError, DataError, UnsupportedModuleError
from dualselect.gradients import Batch, Losses, Parameters, per_sample_nll
from dualselect.methods.base import Method, Run, check_range
from dualselect.methods.registry import method
from dualselect.options import option
from dualselect.selection import measures


@method
@dataclass
class Antidote(Method):
    """Fine-tune as plain SFT does, then set the weights that matter most on harmful data to zero.

    "Antidote: Post-fine-tuning Safety Alignment for Large Language Models against Harmful Fine-tuning",
    arXiv 2408.09600. The importance of a weight is Wanda's, |W_oi| * ||X_i||_2, where X_i is all that reaches input
    channel i of its layer on the harmful data. In every output row the share `dense_ratio` of highest importance is
    removed. With a LoRA these are the weights of the factors A and B themselves, which is not the same as pruning
    the merged weights; with full fine-tuning those of the trained linear layers except the output head.
    """

    name: ClassVar[str] = "antidote"
    pools: ClassVar[tuple[str, ...]] = ("harmful",)
    stage: ClassVar[str] = "after"
    cost: ClassVar[str] = "1, and one forward pass over the pool"
    fidelity: ClassVar[str] = "faithful; padding does not count as input"

    dense_ratio: float = option(0.1, "Share of every output row's weights that is set to zero.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("dense_ratio", self.dense_ratio, 0.0, 1.0)

    def finish(self, run: Run) -> None:
        """Measure the importance of the weights on the pool and remove the most important ones."""
        layers = prunable_layers(run.model, run.params)
        if not layers:
            raise ConfigError("antidote prunes linear layers but none is trained: train a LoRA or linear weights")
        norms = InputNorms(layers)
        run.pool("harmful").scan([measures.loss()], loss=norms.observe, title="Importance", resumable=False)
        removed = 0
        for name, norm in norms.compute().items():
            weight = run.params[name]
            chosen = most_important(weight.detach(), norm, self.dense_ratio)
            with torch.no_grad():
                weight.masked_fill_(chosen, 0.0)
            removed += int(chosen.sum())
        total = sum(run.params[name].numel() for name in layers)
        run.say(f"antidote: set {removed} of {total} weights in {len(layers)} linear layers to zero")


def prunable_layers(model: nn.Module, params: Parameters) -> dict[str, nn.Linear]:
    """Return the linear layers whose weights are trained, by the weight's name, without the output head."""
    name_of = {id(param): name for name, param in params.items()}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    of_head = set() if head is None else set(head.modules())  # an adapter may have wrapped it
    return {
        name_of[id(module.weight)]: module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module not in of_head and id(module.weight) in name_of
    }


def most_important(weight: Tensor, norm: Tensor, share: float) -> Tensor:
    """Return which weights of every output row have the highest |W_oi| * ||X_i||, ties going to the higher column.

    Args:
        weight: Weights, shape `(O, I)`.
        norm: Norm of every input channel, shape `(I,)`, fp32.
        share: Share of a row's I weights to choose: I - int((1 - share) * I) of them.

    Returns:
        Shape `(O, I)`, bool.
    """
    columns = weight.shape[1]
    kept = int((1.0 - share) * columns + 1e-9)  # 0.3 * 10 must not become 2
    order = (weight.abs().float() * norm).argsort(dim=1, stable=True)
    return torch.zeros_like(weight, dtype=torch.bool).scatter_(1, order[:, kept:], True)


class InputNorms:
    """Norms of the input channels of linear layers over the tokens of any number of batches.

    Args:
        layers: Layers, by any name.
    """

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        self._layers = layers
        self._squares = {
            name: torch.zeros(layer.in_features, device=layer.weight.device) for name, layer in layers.items()
        }

    def observe(self, model: nn.Module, batch: Batch) -> Losses:
        """Return the losses of a batch, as `per_sample_nll` does, and add the layers' inputs to the norms."""
        found: dict[str, Tensor] = {}

        def hook_of(name: str) -> Any:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                squares = squared_channels(name, inputs[0].detach(), batch.get("attention_mask"))
                found[name] = found[name] + squares if name in found else squares

            return hook

        handles = [layer.register_forward_pre_hook(hook_of(name)) for name, layer in self._layers.items()]
        try:
            losses = per_sample_nll(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        # Only now, since a batch that did not fit in memory is run again in halves.
        for name, squares in found.items():
            self._squares[name] += squares
        return losses

    def compute(self) -> dict[str, Tensor]:
        """Return the norm of every input channel over all processes, `(I,)` for each layer.

        Raises:
            DataError: A norm is not finite.
        """
        norms = {name: sum_over_processes(squares).sqrt() for name, squares in self._squares.items()}
        broken = next((name for name, norm in norms.items() if not torch.isfinite(norm).all()), None)
        if broken is not None:
            raise DataError(
                f"the inputs of '{broken}' are not finite on the harmful data, so its weights cannot be ranked: find "
                "the sample with `dualselect check`, or use a model whose training did not diverge"
            )
        return norms


def squared_channels(name: str, x: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the sum of squares of every input channel over the tokens that are not padding, `(I,)`, fp32.

    Args:
        name: Name of the layer, for the error.
        x: Input of the layer, `(B, T, I)` or `(B * T, I)`.
        attention_mask: Attention mask, shape `(B, T)`, 0 for padding; None where there is none.

    Raises:
        UnsupportedModuleError: The layer sees only a part of the tokens, as a router's experts do.
    """
    rows = x.float().flatten(0, -2)
    if attention_mask is not None:
        if len(rows) != attention_mask.numel():
            raise UnsupportedModuleError(
                f"the layer of '{name}' was called with {len(rows)} tokens of {attention_mask.numel()}, so padding "
                "cannot be told apart: leave it out of the adapter's targets"
            )
        rows = rows.masked_fill(attention_mask.flatten()[:, None] == 0, 0.0)
    return rows.square().sum(0)
