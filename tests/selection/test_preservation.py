"""The starting point, and a scoring mode in which nothing is random and memory is still saved."""

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM, OPTConfig, OPTForCausalLM

from dualselect.errors import ConfigError
from dualselect.gradients import trainable_parameters
from dualselect.models.modes import eval_mode
from dualselect.selection import measures, preservation_loss, remember_start


def test_the_start_is_a_copy_and_training_weights_come_back(model):
    params = trainable_parameters(model)
    at_start = {name: param.detach().clone() for name, param in params.items()}
    start = remember_start(params)
    with torch.no_grad():
        for param in params.values():
            param.add_(1.0)

    def fail() -> None:
        with start():
            assert all(torch.equal(param, at_start[name]) for name, param in params.items())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(torch.equal(param, at_start[name] + 1.0) for name, param in params.items())


def test_an_unknown_preservation_loss_is_refused():
    with pytest.raises(ConfigError, match="unknown preservation loss 'lk'"):
        preservation_loss("lk", None)


def opt():
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=128,
            hidden_size=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            word_embed_proj_dim=32,
            dropout=0.4,
            init_std=0.2,
            pad_token_id=0,
        )
    )


def falcon():
    return FalconForCausalLM(
        FalconConfig(
            vocab_size=128,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            hidden_dropout=0.4,
            initializer_range=0.2,
            pad_token_id=0,
        )
    )


@pytest.fixture(params=["llama", "opt", "falcon"])
def base(request, make_tiny_model):
    """A model in training mode whose last attention weights are trained."""
    model = {"llama": make_tiny_model, "opt": opt, "falcon": falcon}[request.param]().train()
    for name, param in model.named_parameters():
        param.requires_grad_(name.endswith(("v_proj.weight", "query_key_value.weight")))
    return model


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_scorings_are_equal_and_use_no_random_numbers(base, examples, truth, pool_of, checkpointing):
    rows = examples(5)
    losses, gradients = truth(base, rows)
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    pool = pool_of(base, rows)
    state = torch.get_rng_state()
    first = pool.scan([measures.loss(), measures.norm()])
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    again = pool.scan([measures.loss(), measures.norm()])
    for name, expected in (("loss", losses), ("norm", gradients.norm(dim=1))):
        assert torch.equal(first[name], again[name])
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
    assert all(module.training for module in base.modules())


def test_checkpointing_continues_while_scoring_and_layers_are_left_as_they_were(base, examples, pool_of):
    pool = pool_of(base, examples(1))
    held = {}
    for checkpointing in (False, True):
        if checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        before = [dict(vars(module)) for module in base.modules()]
        held[checkpointing] = held_bytes(base, pool)
        assert [dict(vars(module)) for module in base.modules()] == before
    assert held[True] < 0.7 * held[False]


def held_bytes(model, pool):
    """Return the bytes that autograd keeps of a forward pass in scoring mode."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    weights = {param.data_ptr() for param in model.parameters()}
    with eval_mode(model, gradients=True), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(**pool.collate(pool.examples), use_cache=False).logits
    assert output.requires_grad
    return sum(size for place, size in kept.items() if place not in weights)
