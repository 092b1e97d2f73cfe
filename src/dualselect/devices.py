"""Capabilities of the machine's devices."""

import torch

# Instruction sets without any for bfloat16: products there are emulated, ten or more times slower than in float32.
_WITHOUT_BFLOAT16 = ("DEFAULT", "NO AVX", "AVX2")


def computes_bfloat16(device: str) -> bool:
    """Return whether products in bfloat16 are worthwhile on a device, `cpu` or an accelerator's name."""
    return not device.startswith("cpu") or torch.backends.cpu.get_cpu_capability() not in _WITHOUT_BFLOAT16
