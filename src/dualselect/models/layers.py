"""The decoder layers of a model, and what it does when the weights of one are scaled."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dualselect.errors import UnsupportedModuleError


def decoder_layers(model: Any) -> nn.ModuleList:
    """Return the decoder layers of a causal language model of transformers or PEFT, the first one first.

    Raises:
        UnsupportedModuleError: The model has no list of as many layers as its configuration says.
    """
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    count = getattr(causal_lm.config.get_text_config(), "num_hidden_layers", None)
    for module in causal_lm.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise UnsupportedModuleError(
        f"{type(causal_lm).__name__} has no list of {count} decoder layers, so their outputs cannot be read: use "
        "another architecture"
    )


@contextmanager
def scaled(layer: nn.Module, factor: float) -> Iterator[None]:
    """Return a context in which the projections of a layer act as if their weights were `factor` times what they are.

    Their inputs are scaled instead, W (f x) + b = (f W) x + b, so that no weight is touched, a LoRA counts with its
    base, and quantised weights are scaled as well. Biases, norms and fused experts of a mixture stay as they are.
    """

    def scale(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * factor, *inputs[1:])

    with ExitStack() as stack:
        for projection in _projections(layer):
            stack.callback(projection.register_forward_pre_hook(scale).remove)
        yield


def _projections(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that multiply by a matrix; one that adapts another counts, and not what is inside it."""
    for child in module.children():
        if hasattr(child, "base_layer") or getattr(getattr(child, "weight", None), "ndim", 0) == 2:
            yield child
        else:
            yield from _projections(child)
