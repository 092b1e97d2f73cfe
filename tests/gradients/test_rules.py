"""Which layer gets which rule, and rules that the architectures do not reach, against single backward passes."""

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.xglm.modeling_xglm import XGLMScaledWordEmbedding
from transformers.pytorch_utils import Conv1D

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients import Direction, capture, per_sample_nll, register_rule, trainable_parameters
from dualselect.gradients.rules import rule_for


def randomised(module):
    for param in module.parameters():
        nn.init.normal_(param)
    return module


LAYERS = {
    "linear": (nn.Linear(6, 4), (6,)),
    "linear without bias": (nn.Linear(6, 4, bias=False), (6,)),
    "linear with heads between": (nn.Linear(6, 4), (3, 6)),
    "linear with two dimensions between": (nn.Linear(6, 4), (3, 2, 6)),
    "Falcon's linear": (FalconLinear(6, 4), (6,)),
    "GPT-2's transposed linear": (Conv1D(4, 6), (6,)),
    "layer norm": (nn.LayerNorm(6), (6,)),
    "layer norm over heads and features": (nn.LayerNorm((3, 6)), (3, 6)),
    "layer norm of 1 + weight": (NemotronLayerNorm1P(6), (6,)),
    "Cohere's layer norm": (CohereLayerNorm(6), (6,)),
    "Cohere's layer norm of heads": (CohereLayerNorm((3, 6)), (3, 6)),
    "RMS norm": (nn.RMSNorm(6), (6,)),
    "RMS norm of each head": (nn.RMSNorm(6, eps=1e-5), (3, 6)),
    "embedding": (nn.Embedding(9, 6), None),
    "embedding with padding": (nn.Embedding(9, 6, padding_idx=2), None),
    "scaled embedding": (Gemma3TextScaledWordEmbedding(9, 6, 0, embed_scale=5.5), None),
    "embedding scaled by a float": (XGLMScaledWordEmbedding(9, 6, 0, embed_scale=5.5), None),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_rule_equals_single_backward_passes(kind):
    layer, features = LAYERS[kind]
    randomised(layer)
    x = torch.randint(0, 9, (4, 5)) if features is None else torch.randn(4, 5, *features)
    losses = layer(x).pow(3).flatten(1).sum(1)
    params = trainable_parameters(layer)
    truth = []
    for loss in losses:
        layer.zero_grad(set_to_none=True)
        loss.backward(retain_graph=True)
        truth.append(Direction.from_grads(params).vector)
    layer.zero_grad(set_to_none=True)
    truth = torch.stack(truth)
    with capture(layer) as gradients:
        gradients.backward(layer(x).pow(3).flatten(1).sum(1))
    weights, direction = torch.tensor([0.5, 0.0, 2.0, 1.0]), torch.randn(truth.shape[1])
    torch.testing.assert_close(gradients.norm(), truth.norm(dim=1), rtol=1e-4, atol=0)
    torch.testing.assert_close(gradients.weighted_sum(weights).vector, weights @ truth, rtol=1e-4, atol=1e-3)
    found = gradients.dot(Direction(gradients.layout, direction))
    torch.testing.assert_close(found, truth @ direction, rtol=1e-4, atol=1e-3)


# Which rule.


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(nn.Linear):
    pass


class GatedRMSNorm(nn.Module):
    """Named like an RMS norm, with a second parameter."""

    def __init__(self):
        super().__init__()
        self.weight, self.gate = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))
        self.eps = 1e-6


class RootRMSNorm(nn.Module):
    """Named like an RMS norm, without an epsilon."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6))


@pytest.mark.parametrize("module", [Doubled(6, 4), GatedRMSNorm(), RootRMSNorm(), nn.Conv1d(3, 3, 1)])
def test_a_layer_that_computes_something_else_is_refused_by_name(module):
    with pytest.raises(UnsupportedModuleError, match=rf"'blocks\.0' \({type(module).__name__}\)"):
        rule_for("blocks.0", module)


def test_a_subclass_that_only_renames_has_the_rule_of_its_base():
    assert rule_for("", Renamed(6, 4)) is rule_for("", nn.Linear(6, 4))


def test_a_subclass_with_a_forward_of_its_own_can_be_registered(monkeypatch):
    monkeypatch.setattr("dualselect.gradients.rules._rules", dict(rule_for.__globals__["_rules"]))
    linear = rule_for("", nn.Linear(6, 4))

    @register_rule(Doubled)
    def doubled(module, x, delta):
        return linear(module, x, 2 * delta)

    layer = Doubled(6, 4, bias=False)
    assert rule_for("", layer) is doubled
    x = torch.randn(3, 5, 6)
    with capture(layer) as gradients:
        gradients.backward(layer(x).sum((1, 2)))
    expected = 2 * x.sum(1).norm(dim=1) * 4**0.5  # every row of the gradient is twice the sum of the inputs
    torch.testing.assert_close(gradients.norm(), expected)


def test_a_class_can_be_registered_by_its_name(monkeypatch):
    monkeypatch.setattr("dualselect.gradients.rules._rules_by_name", {})
    register_rule("Doub*")(len)
    assert rule_for("", Doubled(6, 4)) is len


def test_lora_beside_a_trained_scaled_embedding_is_exact(batch, loop, with_lora):
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    torch.manual_seed(0)
    config = Gemma3TextConfig(vocab_size=128, initializer_range=0.2, num_key_value_heads=2, **shape)
    model = with_lora(Gemma3ForCausalLM(config).eval(), ["q_proj"], modules_to_save=["embed_tokens"])
    truth = loop(model, batch)
    with capture(model) as gradients:
        gradients.backward(per_sample_nll(model, batch).loss)
    torch.testing.assert_close(gradients.norm(), truth.gradients.norm(dim=1), rtol=1e-4, atol=0)


# Modules that return something else than one tensor, and outputs that are changed in place.


class InPlace(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        hidden = self.layer(x)
        hidden += 1
        hidden *= 2
        return hidden


@pytest.mark.parametrize(
    "layer", [nn.Linear(6, 6), FalconLinear(6, 6), nn.LayerNorm(6)], ids=lambda x: type(x).__name__
)
def test_an_output_may_be_changed_in_place(layer):
    model, x = InPlace(randomised(layer)), torch.randn(3, 5, 6)
    model(x).pow(2).sum().backward()
    expected = Direction.from_grads(trainable_parameters(model)).vector
    model.zero_grad(set_to_none=True)
    with capture(model) as gradients:
        gradients.backward(model(x).pow(2).sum((1, 2)))
    torch.testing.assert_close(gradients.weighted_sum(torch.ones(3)).vector, expected, rtol=1e-4, atol=1e-3)


def test_a_module_that_returns_more_than_one_tensor_is_refused_by_name():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, x):
            return x * self.weight, x

    register_rule(Both)(lambda module, x, delta: {})
    model = nn.ModuleDict({"both": Both()})
    with pytest.raises(UnsupportedModuleError, match=r"'both' \(Both\)"), capture(model):
        model["both"](torch.randn(3, 5, 6))


# Adapters.


@pytest.mark.parametrize(
    ("config", "blamed"),
    [
        (PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "PROMPT_TUNING.*virtual tokens"),
        (PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), "PREFIX_TUNING.*virtual tokens"),
        (LoraConfig(target_modules=["q_proj"], alora_invocation_tokens=[9]), "activated LoRA"),
        (LoraConfig(target_modules=[], target_parameters=["q_proj.weight"]), r"q_proj\.weight' \(target_parameters"),
        (LoraConfig(target_modules=["q_proj", "lm_head"]), "the output projection.*modules_to_save"),
        (LoraConfig(target_modules=["q_proj", "embed_tokens"]), r"embed_tokens\.lora_embedding_A"),
        (LoraConfig(target_modules=["q_proj"], use_dora=True), "lora_magnitude_vector"),
    ],
    ids=["prompt tuning", "prefix tuning", "aLoRA", "target_parameters", "lm_head", "embedding", "DoRA"],
)
def test_adapters_without_per_sample_gradients_are_refused_with_what_is_to_blame(tiny_model, batch, config, blamed):
    model = get_peft_model(tiny_model, config)
    with pytest.raises(UnsupportedModuleError, match=blamed), capture(model) as gradients:
        gradients.backward(per_sample_nll(model, batch).loss)
