"""Antidote on layers whose importance can be worked out, and on a LoRA of a small Llama."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from dualselect.errors import ConfigError, DataError, UnsupportedModuleError
from dualselect.gradients import trainable_parameters
from dualselect.methods.antidote import Antidote, InputNorms, most_important, prunable_layers, squared_channels


@dataclass
class Pool:
    """A pool that hands its batches to a loss, one forward pass each."""

    model: nn.Module
    batches: list[dict[str, Tensor]]

    def scan(self, measures: Any, *, loss: Any, title: str, resumable: bool) -> dict[str, Tensor]:
        assert not resumable  # what is observed is not stored, so nothing could be taken up again
        with torch.no_grad():
            return {"loss": torch.cat([loss(self.model, batch).loss for batch in self.batches])}


@dataclass
class Run:
    """What Antidote reads of a run."""

    model: nn.Module
    batches: list[dict[str, Tensor]]
    said: list[str] = field(default_factory=list)

    @property
    def params(self) -> dict[str, nn.Parameter]:
        return trainable_parameters(self.model)

    def pool(self, name: str) -> Pool:
        assert name == "harmful"
        return Pool(self.model, self.batches)

    def say(self, message: str) -> None:
        self.said.append(message)


def batch_of(lengths: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Return padded random samples of the given lengths, all but the first two tokens supervised."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(3, 128, shape, generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.fixture
def lora_run(tiny_model) -> Run:
    """A Llama with a LoRA of rank 4 on q and v, whose B is not zero, and two padded batches."""
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    model = get_peft_model(tiny_model, config)
    for name, param in trainable_parameters(model).items():
        if "lora_B" in name:
            nn.init.normal_(param)
    return Run(model.eval(), [batch_of([7, 4, 9]), batch_of([3, 8], seed=1)])


def inputs_of(run: Run, name: str) -> Tensor:
    """Return all that reaches a layer from single samples without padding, one after the other, `(N, I)`."""
    layer = prunable_layers(run.model, run.params)[name]
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().flatten(0, -2)))
    with torch.no_grad():
        for batch in run.batches:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                run.model(input_ids=ids[mask.bool()][None])
    handle.remove()
    return torch.cat(seen)


def test_the_importance_is_the_weight_times_the_norm_of_its_input():
    weight = torch.tensor([[1.0, -3.0, 2.0], [0.5, 0.4, -0.1]])
    norm = torch.tensor([4.0, 1.0, 1.5])  # importance 4 3 3 and 2 0.4 0.15
    assert most_important(weight, norm, 1 / 3).tolist() == [[True, False, False], [True, False, False]]
    assert most_important(weight, torch.tensor([1.0, 1.0, 1.0]), 1 / 3).tolist() == [
        [False, True, False],
        [True, False, False],
    ]


@pytest.mark.parametrize("columns", [1, 3, 4, 8, 10, 16, 256])
@pytest.mark.parametrize("tenths", range(11))
def test_every_row_loses_exactly_its_share(columns, tenths):
    chosen = most_important(torch.randn(5, columns), torch.rand(columns), tenths / 10)
    kept = (10 - tenths) * columns // 10  # whole numbers, free of rounding
    assert chosen.sum(1).tolist() == [columns - kept] * 5


def test_scaling_the_inputs_changes_no_choice():
    weight, norm = torch.randn(6, 20), torch.rand(20)
    assert torch.equal(most_important(weight, norm, 0.3), most_important(weight, 64.0 * norm, 0.3))


def test_ties_go_to_the_higher_column():
    assert most_important(torch.ones(1, 4), torch.ones(4), 0.5).tolist() == [[False, False, True, True]]


def test_the_factors_lose_what_matters_most_on_the_unpadded_samples(lora_run):
    before = {name: param.detach().clone() for name, param in lora_run.params.items()}
    norms = {name: inputs_of(lora_run, name).square().sum(0).sqrt() for name in before}
    Antidote(dense_ratio=0.25).finish(lora_run)
    for name, param in lora_run.params.items():
        count = before[name].shape[1] // 4  # one of B's four entries, eight of A's 32
        importance = before[name].abs() * norms[name]
        bound = importance.topk(count, dim=1).values[:, -1:]
        expected = torch.where(importance >= bound, 0.0, before[name])
        torch.testing.assert_close(param.detach(), expected, rtol=0, atol=0)
    assert "set 224 of 896 weights in 8 linear layers to zero" in lora_run.said[0]


def test_the_share_zero_leaves_every_weight(lora_run):
    before = {name: param.detach().clone() for name, param in lora_run.params.items()}
    Antidote(dense_ratio=0.0).finish(lora_run)
    assert all(torch.equal(before[name], param) for name, param in lora_run.params.items())


def test_full_fine_tuning_prunes_the_trained_linear_layers_but_the_head(tiny_model):
    tiny_model.model.layers[1].requires_grad_(False)
    before = {name: param.detach().clone() for name, param in tiny_model.named_parameters()}
    Antidote(dense_ratio=0.5).finish(Run(tiny_model.eval(), [batch_of([5, 6])]))
    changed = {name for name, param in tiny_model.named_parameters() if not torch.equal(before[name], param)}
    linear = {name for name in before if name.startswith("model.layers.0.") and "norm" not in name}
    assert changed == linear
    assert all((tiny_model.get_parameter(name) == 0).sum() == before[name].numel() // 2 for name in linear)


def test_running_norms_over_batches_equal_those_of_one_batch(lora_run):
    layers = prunable_layers(lora_run.model, lora_run.params)
    whole, parts = InputNorms(layers), InputNorms(layers)
    batch = batch_of([7, 4, 9, 2])
    with torch.no_grad():
        whole.observe(lora_run.model, batch)
        for row in range(4):
            parts.observe(lora_run.model, {name: value[row : row + 1] for name, value in batch.items()})
    for (name, norm), other in zip(whole.compute().items(), parts.compute().values(), strict=True):
        torch.testing.assert_close(norm, other, msg=name)


def test_padding_is_no_input():
    x = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [torch.nan, torch.inf]]])
    mask = torch.tensor([[1, 1, 0]])
    assert squared_channels("w", x, mask).tolist() == [10.0, 20.0]
    assert squared_channels("w", x.flatten(0, 1), mask).tolist() == [10.0, 20.0]
    assert squared_channels("w", x[:, :2], None).tolist() == [10.0, 20.0]


def test_a_layer_that_sees_some_tokens_only_is_refused():
    with pytest.raises(UnsupportedModuleError, match=r"'experts.w' was called with 2 tokens of 3"):
        squared_channels("experts.w", torch.ones(2, 4), torch.ones(1, 3))


def test_a_batch_that_fails_leaves_no_trace(lora_run):
    norms = InputNorms(prunable_layers(lora_run.model, lora_run.params))
    bad = {**batch_of([4]), "labels": torch.full((1, 4), 10_000)}  # fails once the layers have run
    with pytest.raises((IndexError, RuntimeError)), torch.no_grad():
        norms.observe(lora_run.model, bad)
    assert all(norm.eq(0).all() for norm in norms.compute().values())
    layers = prunable_layers(lora_run.model, lora_run.params).values()
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_inputs_that_are_not_finite_are_named(lora_run):
    norms = InputNorms(prunable_layers(lora_run.model, lora_run.params))
    nn.init.constant_(lora_run.model.get_input_embeddings().weight, torch.nan)
    with torch.no_grad():
        norms.observe(lora_run.model, batch_of([4]))
    with pytest.raises(DataError, match=r"the inputs of '.*layers.0.*lora_A.*' are not finite"):
        norms.compute()


def test_a_model_without_a_trained_linear_layer_is_refused(tiny_model):
    tiny_model.requires_grad_(False)
    tiny_model.model.norm.requires_grad_(True)
    with pytest.raises(ConfigError, match="none is trained"):
        Antidote().finish(Run(tiny_model, []))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_bad_options_are_refused(share):
    with pytest.raises(ConfigError, match=f"dense_ratio is {share}"):
        Antidote(dense_ratio=share)
