"""The self-check of the first step: it passes what is exact, names what is not, and leaves no trace."""

from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM
from trl.trainer.utils import add_fused_lm_head

from dualselect.errors import UnsupportedModuleError
from dualselect.gradients import Watch, check_model, per_sample_nll, rules, supervised_positions, trainable_parameters


def check(model, batch, **options):
    params = trainable_parameters(model)
    watch = Watch(model, params)
    watch.install()
    check_model(model, params, batch, watch=watch, **options)


def joined(batch):
    """Return the samples of a padded batch as one padding-free row."""
    real = batch["attention_mask"].bool()
    return {
        "input_ids": batch["input_ids"][real][None],
        "labels": batch["labels"][real][None],
        "position_ids": torch.cat([torch.arange(int(length)) for length in real.sum(1)])[None],
    }


def mixture():
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    router = {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 1.0}
    return MixtralForCausalLM(MixtralConfig(vocab_size=128, num_key_value_heads=2, **shape, **router))


KINDS = [
    "lora on q and v",
    "lora on all linear layers",
    "lora and a trained embedding",
    "all parameters",
    "all parameters, tied",
    "all parameters, with biases and LayerNorm",
]


@pytest.mark.parametrize("form", [lambda batch: batch, joined], ids=["padded", "padding-free"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exact_passes(make_model, batch, kind, form):
    check(make_model(kind).train(), form(batch))


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16 weights", "autocast"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_passes(make_model, batch, kind, autocast):
    model = make_model(kind) if autocast else make_model(kind).to(torch.bfloat16)
    check(model, batch, autocast=partial(torch.autocast, "cpu", torch.bfloat16, enabled=autocast))


def test_a_padding_free_row_with_padding_at_its_end_passes(make_model, batch):
    row = {name: nn.functional.pad(values, (0, 3)) for name, values in joined(batch).items()}
    row["labels"][:, -3:] = -100
    check(make_model("lora on q and v"), row | supervised_positions(row, size=5))


def test_a_batch_with_token_weights_and_positions_passes(make_model, batch):
    extra = {"token_weights": torch.rand(batch["labels"].shape)} | supervised_positions(batch)
    check(make_model("lora on q and v"), batch | extra)


def test_a_model_whose_forward_trl_patched_passes(make_tiny_model, with_lora, batch):
    model = make_tiny_model()
    add_fused_lm_head(model)
    check(with_lora(model, ["q_proj"]), batch)


def test_a_mixture_of_experts_passes_whatever_its_router_loss(with_lora, batch):
    check(with_lora(mixture(), ["q_proj"]), batch)


def test_a_batch_without_a_finite_loss_says_nothing(make_model, batch):
    model = make_model("lora on q and v")
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    check(model, batch)
    batch["labels"][:] = -100
    check(make_model("lora on q and v"), batch)


def test_samples_without_a_finite_loss_are_passed_over(make_model, batch):
    shortest = batch["attention_mask"].sum(1).argmin()
    batch["input_ids"][batch["input_ids"] == 127] = 126
    batch["input_ids"][shortest, 0] = 127
    model = make_model("all parameters")
    with torch.no_grad():
        model.model.embed_tokens.weight[127] = float("nan")
    check(model, batch)


# What differs is named.


def scaled(term):
    return type(term)(*(values * factor for values, factor in zip(vars(term).values(), (1.5, 1.0), strict=False)))


@pytest.mark.parametrize("form", [lambda batch: batch, joined], ids=["padded", "padding-free"])
def test_a_wrong_rule_is_found_by_the_names_of_its_parameters(make_model, batch, monkeypatch, form):
    rule = rules.rms_norm
    monkeypatch.setattr(rules, "_is_rms_norm", lambda module: True)
    monkeypatch.setitem(rules._rules_by_name, "*RMSNorm", lambda *inputs: {"weight": scaled(rule(*inputs)["weight"])})
    with pytest.raises(UnsupportedModuleError, match=r"norm\.weight.* and 2 more differ .* LlamaForCausalLM"):
        check(make_model("all parameters"), form(batch))


def test_a_wrong_rule_is_found_under_bf16_autocast(make_model, batch, monkeypatch):
    rule = rules.rms_norm
    monkeypatch.setattr(rules, "_is_rms_norm", lambda module: True)
    monkeypatch.setitem(rules._rules_by_name, "*RMSNorm", lambda *inputs: {"weight": scaled(rule(*inputs)["weight"])})
    with pytest.raises(UnsupportedModuleError, match=r"norm\.weight"):
        check(make_model("all parameters"), batch, autocast=partial(torch.autocast, "cpu", torch.bfloat16))


def test_a_wrong_rule_of_a_is_found_although_b_of_a_fresh_lora_is_zero(make_tiny_model, batch, monkeypatch):
    model = get_peft_model(make_tiny_model(), LoraConfig(r=4, target_modules=["q_proj"]))
    rule = rules.linear

    def wrong_for_a(module, x, delta):
        terms = rule(module, x, delta)
        return terms | {"weight": scaled(terms["weight"])} if module.out_features == 4 else terms

    monkeypatch.setitem(rules._rules, nn.Linear, wrong_for_a)
    with pytest.raises(UnsupportedModuleError, match=r"q_proj\.lora_A.*, '.*q_proj\.lora_A[^,]*' differ"):
        check(model, batch)


def test_a_step_of_the_head_that_is_not_known_is_found(make_model, batch):
    model = make_model("lora on q and v")
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: output * 1.1)
    with pytest.raises(UnsupportedModuleError, match=r"losses of single samples.*LlamaForCausalLM"):
        check(model, batch)


def test_samples_that_interact_are_found(make_model, batch):
    model = make_model("lora on q and v")
    layer = model.get_base_model().model.layers[0].mlp
    layer.register_forward_hook(lambda module, inputs, output: output + output.mean(0, keepdim=True))
    with pytest.raises(UnsupportedModuleError, match="lets the samples of a batch interact"):
        check(model, batch)


# What it leaves behind.


@pytest.mark.parametrize("fails", [False, True], ids=["passes", "fails"])
def test_weights_grads_modes_and_random_state_are_what_they_were(make_tiny_model, batch, fails):
    model = get_peft_model(make_tiny_model(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.5)).train()
    model.get_base_model().model.layers[1].eval()
    first = next(iter(trainable_parameters(model).values()))
    first.grad = torch.ones_like(first)
    grad = first.grad
    if fails:
        model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: output * 1.1)
    before = {name: param.detach().clone() for name, param in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()
    if fails:
        with pytest.raises(UnsupportedModuleError):
            check(model, batch)
    else:
        check(model, batch)
    assert all(torch.equal(param, before[name]) for name, param in model.named_parameters())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert first.grad is grad
    assert bool((grad == 1).all())
    others = list(trainable_parameters(model).values())[1:]
    assert all(param.grad is None for param in others)


def test_under_no_grad_it_checks_all_the_same(make_model, batch):
    with torch.no_grad():
        check(make_model("lora on q and v"), batch)


def test_other_losses_can_be_checked(make_model, batch):
    def halved(model, batch):
        found = per_sample_nll(model, batch)
        return found._replace(loss=found.loss / 2)

    with pytest.raises(UnsupportedModuleError, match="losses of single samples"):
        check(make_model("lora on q and v"), batch, losses=halved)
