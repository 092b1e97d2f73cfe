"""FSDP2 over gloo: accelerate shards on GPUs only, PyTorch itself on a CPU as well."""

from typing import Any

from accelerate.state import AcceleratorState, DistributedType, PartialState


def allow_fsdp_on_cpu() -> None:
    """Let accelerate do on a CPU what its configuration asks for."""
    begin = AcceleratorState.__init__

    def __init__(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin = fsdp_plugin
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = __init__
