"""FSDP2: with an adapter the frozen weights are sharded, without one all of the model.

An adapter stays whole on every process, so per-sample gradients, directions, the optimizer and checkpoints are those of
one process. Where all parameters are trained, each process has its part of them, of their gradients and of every
direction. Weights are sharded once, when a trainer is made: whatever reads them later, a pool or the optimizer, finds
them as they are in training.
"""

from dataclasses import replace
from math import ceil
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model, get_parameters_from_modules
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, StateDictType, register_fsdp_forward_method

from dualselect.distributed import is_sharded, world_size
from dualselect.errors import ConfigError
from dualselect.gradients import Parameters, trainable_parameters
from dualselect.methods import Method
from dualselect.training.config import DualSelectConfig

_WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU)
_NAMES = {DistributedType.FSDP: "FSDP1", DistributedType.DEEPSPEED: "DeepSpeed (ZeRO)"}
_CURE = "use FSDP2 (fsdp_version: 2 in accelerate's configuration), or DDP (accelerate launch --multi_gpu)"
# Element by element, so that they work on parts of parameters.
_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")


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


def shard(
    accelerator: Accelerator, model: Any, args: DualSelectConfig, method: type[Method], has_router_loss: bool
) -> None:
    """Shard a model in place, as accelerate's FSDP2 is configured; nothing if that is done.

    Trained weights have the main process's values. Those of an adapter are left whole, on each process's device.

    Args:
        accelerator: Accelerator that runs FSDP2.
        model: Model, with an adapter or without.
        args: Settings of the run.
        method: Method of the run.
        has_router_loss: Whether the routers of a mixture of experts add a loss.

    Raises:
        ConfigError: The method or a setting does not go with this.
    """
    plugin = accelerator.state.fsdp_plugin
    has_adapter = hasattr(model, "peft_config")
    _check(accelerator, model, args, has_router_loss)
    if not has_adapter:
        _check_full(accelerator, model, args, method)
    if is_sharded(model):
        plugin.auto_wrap_policy = None  # it would look for layers by the names that they had before
        return
    trained = trainable_parameters(model)
    _share_values(trained, accelerator.device)
    if has_adapter:
        for param in trained.values():
            param.data = param.data.to(accelerator.device)
        others = get_parameters_from_modules(plugin.ignored_modules, model, accelerator.device)
        plugin.ignored_modules = [nn.ParameterList(trained.values()), nn.ParameterList(others)]
    if plugin.mixed_precision_policy is not None:  # losses and sums of gradients are fp32
        plugin.mixed_precision_policy = replace(
            plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32
        )
    fsdp2_prepare_model(accelerator, model)
    register_fsdp_forward_method(model, "generate")
    for module in model.modules():
        if isinstance(module, FSDPModule):  # gradients are summed, not averaged
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def _share_values(params: Parameters, device: torch.device) -> None:
    """Give parameters the main process's values."""
    for param in params.values():
        values = param.data.to(device)
        dist.broadcast(values, src=0)
        param.data.copy_(values)


def _check(accelerator: Accelerator, model: Any, args: DualSelectConfig, has_router_loss: bool) -> None:
    plugin = accelerator.state.fsdp_plugin
    refused = {
        "fsdp_cpu_ram_efficient_loading": (
            plugin.cpu_ram_efficient_loading,
            "every process reads the weights itself: set it to false",
        ),
        "fsdp_activation_checkpointing": (
            plugin.activation_checkpointing,
            "it renames the parameters: set it to false, and gradient_checkpointing to true",
        ),
        "fsdp_offload_params": (
            isinstance(plugin.cpu_offload, CPUOffloadPolicy),
            "what is trained stays on the device: set it to false",
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
    _refuse(refused, "FSDP2")


def _check_full(accelerator: Accelerator, model: Any, args: DualSelectConfig, method: type[Method]) -> None:
    plugin = accelerator.state.fsdp_plugin
    optim = str(getattr(args.optim, "value", args.optim))
    refused = {
        f"method '{method.name}'": (
            not method.shards,
            "it is not known to work where a process has a part of each gradient and weight: train a LoRA (use_peft), "
            "or use DDP (accelerate launch --multi_gpu)",
        ),
        "fsdp_state_dict_type": (
            plugin.state_dict_type != StateDictType.FULL_STATE_DICT,
            "the model is saved whole: set it to FULL_STATE_DICT",
        ),
        "fsdp_ignored_modules": (
            plugin.ignored_modules is not None,
            "what is trained is either whole or sharded: leave it unset",
        ),
        # accelerate knows a parameter by where its values are, which a share without values does not say.
        f"a model of which {_without_share(model)} parameters have too few rows for each of {world_size()} processes": (
            _without_share(model) > 1,
            "use fewer processes",
        ),
        f"optim '{optim}'": (
            optim not in _OPTIMIZERS,
            f"it may need whole parameters: set it to {', '.join(_OPTIMIZERS[:-1])} or {_OPTIMIZERS[-1]}",
        ),
    }
    _refuse(refused, "FSDP2 and all parameters trained")


def _without_share(model: nn.Module) -> int:
    """Return how many trained parameters leave the last process, which has the smallest share, without any rows."""
    processes = world_size()
    rows = [param.shape[0] for param in trainable_parameters(model).values()]
    return sum(ceil(count / processes) * (processes - 1) >= count for count in rows)


def _refuse(refused: dict[str, tuple[bool, str]], what: str) -> None:
    for option, (is_set, cure) in refused.items():
        if is_set:
            raise ConfigError(f"{option} does not go with {what}: {cure}")
