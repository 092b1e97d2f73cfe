"""Eval mode: dropout off, so that what is measured depends on weights and inputs alone."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def eval_mode(*models: Any, gradients: bool = False) -> Iterator[None]:
    """Run a block with all modules of models in eval mode; each module's own mode is restored afterwards.

    Args:
        *models: Models of PyTorch.
        gradients: Whether gradients are taken in the block. Layers that checkpoint their activations keep doing so.
    """
    modules = [module for model in models for module in model.modules()]
    before = [(module, module.training) for module in modules]
    for model in models:
        model.eval()
    with ExitStack() as stack:
        for module in modules if gradients else ():
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                stack.enter_context(_checkpointed(module))
        try:
            with torch.set_grad_enabled(gradients):
                yield
        finally:
            for module, training in before:
                module.training = training


@contextmanager
def _checkpointed(layer: GradientCheckpointingLayer) -> Iterator[None]:
    """Checkpoint a layer in evaluation mode too.

    Transformers checkpoints in training mode only, and a layer's own mode may govern its dropout (OPT, Falcon), so the
    mode cannot say both.
    """
    forward, own = layer.forward, vars(layer).get("forward")

    def checkpointing(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return layer._gradient_checkpointing_func(partial(forward, **kwargs), *args)

    layer.forward = checkpointing
    try:
        yield
    finally:
        if own is None:
            del layer.forward
        else:
            layer.forward = own
