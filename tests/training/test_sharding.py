"""What does not go with sharded weights is refused by name, with what does."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import DistributedType
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy, StateDictType

from dualselect import methods
from dualselect.errors import ConfigError
from dualselect.training import sharding
from dualselect.training.sharding import check_parallelism, shard


class Accelerated:
    """What accelerate says it did."""

    parallelism_config = None
    distributed_type = DistributedType.FSDP
    is_fsdp2 = False

    def __init__(self, **changes: Any) -> None:
        vars(self).update(changes)


@pytest.mark.parametrize(
    ("did", "named"),
    [
        ({}, "FSDP1"),
        ({"distributed_type": DistributedType.DEEPSPEED}, "DeepSpeed"),
        ({"distributed_type": DistributedType.MEGATRON_LM}, "MEGATRON_LM"),
        ({"is_fsdp2": True, "parallelism_config": object()}, "context"),
    ],
)
def test_other_ways_to_divide_a_model_are_refused_by_name(did, named):
    check_parallelism(Accelerated(is_fsdp2=True))
    check_parallelism(Accelerated(distributed_type=DistributedType.MULTI_GPU))
    with pytest.raises(ConfigError, match=f"{named}.*FSDP2"):
        check_parallelism(Accelerated(**did))


def sharded(
    model: Any,
    has_router_loss: bool = False,
    auto_find_batch_size: bool = False,
    optim: str = "adamw_torch",
    method: str = "dualselect",
    **changes: Any,
) -> None:
    """Shard as a plugin with these changes says."""
    allowed = {
        "cpu_ram_efficient_loading": False,
        "activation_checkpointing": False,
        "cpu_offload": None,
        "ignored_modules": None,
        "state_dict_type": StateDictType.FULL_STATE_DICT,
    }
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(**(allowed | changes)))
    accelerator = SimpleNamespace(state=state, device=torch.device("cpu"))
    args = SimpleNamespace(auto_find_batch_size=auto_find_batch_size, optim=optim)
    shard(accelerator, model, args, methods.get(method), has_router_loss)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cpu_ram_efficient_loading": True}, "fsdp_cpu_ram_efficient_loading"),
        ({"activation_checkpointing": True}, "gradient_checkpointing to true"),
        ({"cpu_offload": CPUOffloadPolicy()}, "fsdp_offload_params"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"has_router_loss": True}, "router_aux_loss_coef"),
    ],
)
def test_settings_that_do_not_go_with_a_sharded_model_are_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        sharded(SimpleNamespace(peft_config={}), **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": "less"}, r"method 'less'.*train a LoRA.*DDP"),
        ({"optim": "adafactor"}, r"optim 'adafactor'.*adamw_torch"),
        ({"state_dict_type": StateDictType.SHARDED_STATE_DICT}, "fsdp_state_dict_type.*FULL_STATE_DICT"),
        ({"ignored_modules": "lm_head"}, "fsdp_ignored_modules.*leave it unset"),
    ],
)
def test_what_does_not_go_with_sharded_parameters_is_refused(changes, named):
    with pytest.raises(ConfigError, match=named):
        sharded(nn.Linear(4, 5), **changes)


def test_parameters_of_which_a_process_would_have_nothing_are_refused(monkeypatch):
    """Four processes have two, two, one and no rows of five, which is once too often in a weight and a bias."""
    monkeypatch.setattr(sharding, "world_size", lambda: 4)
    with pytest.raises(ConfigError, match=r"2 parameters have too few rows for each of 4 processes.*use fewer"):
        sharded(nn.Linear(4, 5))


def test_the_documentation_lists_the_methods_that_work():
    page = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
    (listed,) = re.findall(r"It works with (.*?)\.", page, re.DOTALL)
    works = {name for name, kind in methods.available().items() if kind.shards}
    assert set(re.findall(r"`([\w-]+)`", listed)) == works


def test_quantised_weights_are_refused():
    with pytest.raises(ConfigError, match=r"load_in_4bit.*DDP"):
        sharded(SimpleNamespace(peft_config={}, is_quantized=True))
