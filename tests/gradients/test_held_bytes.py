"""Memory: what autograd holds between forward and backward, and what a capture keeps."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from dualselect.gradients import Watch, capture, per_sample_nll

pytestmark = pytest.mark.slow


def held_after(forward, model):
    """Return the bytes that autograd holds after `forward()`, each storage once, without the weights."""
    storages, alive = {}, []
    weights = {param.untyped_storage().data_ptr() for param in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)  # so that no other tensor gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(forward())
    return sum(nbytes for address, nbytes in storages.items() if address not in weights)


def bf16_model(with_lora, targets):
    """Return a bf16 model with fp32 LoRA, as TRL makes it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).bfloat16()
    add_fused_lm_head(model)
    return with_lora(model, targets).train()


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"], ids=["q and v", "all linear"])
def test_a_captured_forward_keeps_no_more_than_trl_s(with_lora, make_batch, targets):
    model, batch = bf16_model(with_lora, targets), make_batch(4, 64)

    def plain():
        with torch.autocast("cpu", torch.bfloat16):
            return model(**batch, use_cache=False, fused_lm_head=True).log_probs.sum()

    def captured():
        with capture(model) as gradients, torch.autocast("cpu", torch.bfloat16):
            return per_sample_nll(model, batch).loss, gradients

    assert held_after(captured, model) <= held_after(plain, model)


def test_an_idle_watch_keeps_nothing(with_lora, make_batch):
    model, batch = bf16_model(with_lora, "all-linear"), make_batch(4, 64)

    def forward():
        with torch.autocast("cpu", torch.bfloat16):
            return model(**batch, use_cache=False).loss

    plain = held_after(forward, model)
    Watch(model).install()
    assert held_after(forward, model) == plain


@pytest.mark.parametrize("length", [6, 24, 96])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16 autocast"])
@pytest.mark.parametrize(
    "kind", ["lora on all linear layers", "lora and a trained embedding", "all parameters", "all parameters, tied"]
)
def test_the_estimate_is_within_a_tenth_of_what_is_kept(make_model, make_batch, kind, autocast, length):
    watch = Watch(model := make_model(kind))
    batch = make_batch(4, length)
    batch["labels"] = batch["input_ids"]  # the head sees all tokens but the last
    for _ in range(2):  # inputs that are shared, and their dtype, show in the first batch
        estimate = watch.estimate(4, length)
        with watch.capture() as gradients, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            gradients.backward(per_sample_nll(model, batch).loss)
    assert estimate == pytest.approx(gradients.nbytes, rel=0.1)


@pytest.mark.parametrize("length", [6, 96])
@pytest.mark.parametrize("kind", ["lora on all linear layers", "all parameters, tied"])
def test_without_keeping_only_a_few_numbers_remain(make_model, make_batch, kind, length):
    watch = Watch(model := make_model(kind))
    with watch.capture(keep=False) as gradients:
        gradients.backward(per_sample_nll(model, make_batch(4, length)).loss)
    assert gradients.nbytes <= 4 * 4 * len(watch.params)


@pytest.mark.parametrize(("rows", "columns", "tokens"), [(8, 64, 40), (64, 64, 40), (64, 64, 20)])
def test_a_matrix_is_kept_in_the_form_that_takes_less(rows, columns, tokens):
    layer, x = torch.nn.Linear(columns, rows, bias=False), torch.randn(3, tokens, columns)
    with capture(layer) as gradients:
        gradients.backward(layer(x).square().sum((1, 2)))
    formed, factors = 4 * 3 * rows * columns, 4 * 3 * tokens * (rows + columns)
    assert gradients.nbytes == min(formed, factors)
