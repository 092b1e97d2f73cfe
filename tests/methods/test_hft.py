"""HFT: which weights are halved, and that the others stay."""

from collections import Counter
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from dualselect.errors import ConfigError
from dualselect.gradients import trainable_parameters
from dualselect.methods import HFT


@pytest.fixture
def model(make_tiny_model) -> Any:
    """Return a Llama of four layers whose attention matrices are equally large."""
    return make_tiny_model(num_hidden_layers=4, num_key_value_heads=4)


def trained(model: Any, seed: int = 0, **options: Any) -> list[str]:
    params = trainable_parameters(model)
    frozen = HFT(**options).frozen(params, seed)
    assert set(frozen) <= set(params)
    return [name for name in params if name not in frozen]


@pytest.mark.parametrize("seed", range(5))
def test_half_of_every_kind_is_trained(model, seed):
    names = trained(model, seed)
    attention = Counter(name.split(".")[2] for name in names if ".self_attn." in name)
    assert attention == {str(layer): 2 for layer in range(4)}
    forward = Counter(name.split(".")[2] for name in names if ".mlp." in name)
    assert sorted(forward.values()) == [1, 1, 2, 2]
    assert len([name for name in names if "layernorm" in name]) == 4  # of 8
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= set(names)


def test_half_of_the_layers_weights_is_trained(model):
    params = {name: param for name, param in trainable_parameters(model).items() if ".layers." in name}
    names = set(trained(model))
    share = sum(param.numel() for name, param in params.items() if name in names) / sum(
        param.numel() for param in params.values()
    )
    assert share == 0.5


def test_the_choice_depends_on_seed_and_round_alone(model, make_tiny_model):
    assert trained(model, 1) == trained(make_tiny_model(9, num_hidden_layers=4, num_key_value_heads=4), 1)
    choices = {tuple(trained(model, seed, round=number)) for seed in range(3) for number in range(3)}
    assert len(choices) == 9
    ever = {name for seed in range(12) for name in trained(model, seed)}
    assert ever == set(trainable_parameters(model))


def test_the_whole_share_freezes_nothing(model):
    assert trained(model, trained_fraction=1.0) == list(trainable_parameters(model))


def test_both_factors_of_an_adapter_s_module_go_together(model):
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
    names = trained(adapted)
    modules = Counter(name.split(".lora_")[0] for name in names)
    assert set(modules.values()) == {2}
    assert Counter(module.split(".")[4] for module in modules) == {str(layer): 2 for layer in range(4)}


@pytest.mark.parametrize("options", [{"trained_fraction": 0.0}, {"trained_fraction": 1.1}, {"round": -1}])
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} is {options[name]}"):
        HFT(**options)
