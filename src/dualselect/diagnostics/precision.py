"""Full precision for as long as something small is measured."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def in_fp32(model: nn.Module) -> Iterator[None]:
    """Run a block with the half-precision weights of a model in fp32; they come back as they were, bit for bit.

    Logits that were rounded to bfloat16 differ from others by rounding alone as much as after a KL of about 0.002 nats
    per token, which may be more than a rollout moves the model. The block needs memory for the weights in fp32;
    quantised weights stay as they are, and so does a model whose trained weights are in half precision themselves.
    """
    tensors = [*model.parameters(), *model.buffers()]
    halves = [(tensor, tensor.dtype) for tensor in tensors if tensor.dtype in (torch.bfloat16, torch.float16)]
    if any(tensor.requires_grad for tensor, _ in halves):
        halves = []
    for tensor, _ in halves:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in halves:
            tensor.data = tensor.data.to(dtype)
