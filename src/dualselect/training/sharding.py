"""FSDP2 with an adapter: the frozen weights are sharded, what is trained stays whole on every process.

So per-sample gradients, directions, the optimizer and checkpoints are those of one process. The weights are sharded
once, when a trainer is made: whatever reads them later, a pool or the optimizer, finds them as they are in training.
"""

from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model, get_parameters_from_modules
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, register_fsdp_forward_method

from dualselect.distributed import is_sharded
from dualselect.errors import ConfigError
from dualselect.gradients import trainable_parameters
from dualselect.training.config import DualSelectConfig

_WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU)
_NAMES = {DistributedType.FSDP: "FSDP1", DistributedType.DEEPSPEED: "DeepSpeed (ZeRO)"}
_CURE = "use FSDP2 with a LoRA (fsdp_version: 2 in accelerate's configuration), or DDP (accelerate launch --multi_gpu)"


def check_parallelism(accelerator: Accelerator) -> None:
    """Refuse ways of using several processes that divide what is trained, however they were requested.

    Raises:
        ConfigError: The processes run FSDP1, DeepSpeed, Megatron-LM, or tensor, context or sequence parallelism.
    """
    kind = accelerator.distributed_type
    if getattr(accelerator, "parallelism_config", None) is not None:
        name = "tensor, context or sequence parallelism (parallelism_config)"
    elif kind in _WHOLE or accelerator.is_fsdp2:
        return
    else:
        name = _NAMES.get(kind, kind.value)
    raise ConfigError(f"accelerate runs {name}, which is not supported: {_CURE}")


def shard_frozen(accelerator: Accelerator, model: Any, args: DualSelectConfig, has_router_loss: bool) -> None:
    """Shard the frozen weights of a model in place, as accelerate's FSDP2 is configured; nothing if that is done.

    What is trained is left whole, on each process's device, with the main process's values.

    Args:
        accelerator: Accelerator that runs FSDP2.
        model: Model with an adapter.
        args: Settings of the run.
        has_router_loss: Whether the routers of a mixture of experts add a loss.

    Raises:
        ConfigError: Nothing is frozen, or a setting does not go with this.
    """
    plugin = accelerator.state.fsdp_plugin
    if is_sharded(model):
        plugin.auto_wrap_policy = None  # it would look for layers by the names that they had before
        return
    _check(accelerator, model, args, has_router_loss)
    trained = nn.ParameterList(trainable_parameters(model).values())
    others = get_parameters_from_modules(plugin.ignored_modules, model, accelerator.device)
    plugin.ignored_modules = [trained, nn.ParameterList(others)]
    with torch.no_grad():
        for param in trained:
            param.data = param.data.to(accelerator.device)
            dist.broadcast(param.data, src=0)
    fsdp2_prepare_model(accelerator, model)
    register_fsdp_forward_method(model, "generate")


def _check(accelerator: Accelerator, model: Any, args: DualSelectConfig, has_router_loss: bool) -> None:
    plugin = accelerator.state.fsdp_plugin
    if not hasattr(model, "peft_config"):
        raise ConfigError(
            "FSDP2 would shard what is trained, which is not supported: train a LoRA (use_peft), or all parameters "
            "under DDP (accelerate launch --multi_gpu)"
        )
    refused = {
        "fsdp_cpu_ram_efficient_loading": (
            plugin.cpu_ram_efficient_loading,
            "accelerate would shard the adapter too: set it to false",
        ),
        "fsdp_activation_checkpointing": (
            plugin.activation_checkpointing,
            "it renames the parameters: set it to false, and gradient_checkpointing to true",
        ),
        "fsdp_offload_params": (
            isinstance(plugin.cpu_offload, CPUOffloadPolicy),
            "the adapter stays on the device: set it to false",
        ),
        "auto_find_batch_size": (
            args.auto_find_batch_size,
            "one process cannot start again without the others: set it to False",
        ),
        "router_aux_loss_coef": (
            has_router_loss,
            "the routers' loss does not pass through the layers that FSDP2 gathers: set it to 0, or use DDP",
        ),
        "load_in_4bit and load_in_8bit": (
            bool(getattr(model, "is_quantized", False)),
            "quantised weights are not sharded: use DDP",
        ),
    }
    for option, (is_set, cure) in refused.items():
        if is_set:
            raise ConfigError(f"{option} does not go with FSDP2: {cure}")
