"""Mixtures of experts: the routers' load-balancing loss is added as TRL adds it, whatever is selected.

That loss is a mean over a micro-batch, so unlike everything else it depends on how a step is split.
"""

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM
from trl import SFTConfig, SFTTrainer

from dualselect.methods import ASFT, SFT, DualSelect, Lisa

pytestmark = pytest.mark.slow

_SGD = {"optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_steps": 3}
_ALL = DualSelect(rho=0.0, task_token_fraction=1.0, task_warmup_steps=1)
_CLOSE = {"rtol": 0, "atol": 1e-5}


def mixture(family, coefficient):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "num_experts_per_tok": 2,
        "initializer_range": 0.2,
        "router_aux_loss_coef": coefficient,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    if family == "Mixtral":
        return MixtralForCausalLM(MixtralConfig(num_local_experts=4, **sizes))
    experts = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**experts, **sizes))


@pytest.fixture
def ours(make_trainer, lora):
    """Return a function that makes a trainer and trains it."""

    def train(method=_ALL, family="Mixtral", coefficient=1.0, **changes):
        attention = lora(target_modules=["q_proj", "v_proj"])
        changes = _SGD | {"loss_average": "token"} | changes
        trainer = make_trainer(method, model=mixture(family, coefficient), peft_config=attention, **changes)
        trainer.train()
        return trainer

    return train


@pytest.fixture
def theirs(tiny_tokenizer, settings, samples, lora):
    """Return a function that trains TRL's own trainer on the same samples."""

    def train(family="Mixtral", coefficient=1.0, **changes):
        trainer = SFTTrainer(
            model=mixture(family, coefficient),
            args=settings(SFTConfig, **_SGD | changes),
            train_dataset=samples(40, 1, "task").remove_columns("id"),
            processing_class=tiny_tokenizer,
            peft_config=lora(target_modules=["q_proj", "v_proj"]),
        )
        trainer.train()
        return trainer

    return train


def logged(trainer, name):
    return [event[name] for event in trainer.state.log_history if name in event]


def split(size):
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}


@pytest.mark.parametrize("coefficient", [1.0, 0.02])
@pytest.mark.parametrize("family", ["Mixtral", "Qwen2-MoE"])
def test_selecting_all_is_trl(ours, theirs, trained_weights, family, coefficient):
    found, expected = ours(_ALL, family, coefficient), theirs(family, coefficient)
    torch.testing.assert_close(trained_weights(found), trained_weights(expected), **_CLOSE)
    for name in ("loss", "aux_loss"):
        assert len(logged(expected, name)) == 3
        assert logged(found, name) == pytest.approx(logged(expected, name), rel=1e-4), name


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param(_ALL, split(8), id="8x1"),
        pytest.param(_ALL, split(2), id="2x4"),
        pytest.param(_ALL, split(2) | {"window_memory": 0.0}, id="second pass"),
        pytest.param(Lisa(alignment_steps=0, rho=0.0), split(2), id="without per-sample gradients"),
    ],
)
def test_every_way_of_taking_a_step_is_trl(ours, theirs, trained_weights, method, changes):
    expected = theirs(**{name: value for name, value in changes.items() if name != "window_memory"})
    found = ours(method, **changes)
    torch.testing.assert_close(trained_weights(found), trained_weights(expected), **_CLOSE)
    for name in ("loss", "aux_loss"):
        assert logged(found, name) == pytest.approx(logged(expected, name), rel=1e-4), name


@pytest.mark.parametrize("method", [_ALL, SFT()], ids=["selecting", "sft"])
def test_the_sample_average_adds_the_same_term(ours, theirs, trained_weights, method):
    """By how much the routers' loss moves the weights in one step does not depend on how samples are averaged."""
    one = {"max_steps": 1, "max_grad_norm": 0.0}
    with_loss, without = (
        trained_weights(ours(method, coefficient=coefficient, loss_average="sample", **one))
        for coefficient in (1.0, 0.0)
    )
    expected = trained_weights(theirs(**one)) - trained_weights(theirs(coefficient=0.0, **one))
    assert expected.abs().max() > 1e-4
    torch.testing.assert_close(with_loss - without, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [DualSelect(task_warmup_steps=1, task_token_fraction=0.6, rho=0.5), ASFT(kl_weight=1.0)],
    ids=lambda method: method.name,
)
def test_only_the_routers_loss_depends_on_how_a_step_is_split(ours, trained_weights, method):
    runs = {
        (size, c): trained_weights(ours(method, coefficient=c, **split(size))) for size in (8, 2) for c in (0.0, 1.0)
    }
    torch.testing.assert_close(runs[2, 0.0], runs[8, 0.0], **_CLOSE)
    assert (runs[2, 1.0] - runs[8, 1.0]).abs().max() > 1e-4


@pytest.mark.parametrize("average", ["sample", "token"])
@pytest.mark.parametrize("method", [_ALL, SFT()], ids=["selecting", "sft"])
def test_a_sample_that_spoils_the_routers_loss_does_not_spoil_the_run(
    make_trainer, samples, lora, tiny_tokenizer, trained_weights, method, average
):
    model = mixture("Mixtral", 1.0)
    with torch.no_grad():
        model.get_input_embeddings().weight[tiny_tokenizer("~")["input_ids"]] = torch.nan
    spoilt = {"prompt": [{"role": "user", "content": "red~"}]}
    task = samples(8, 1).map(lambda row: row | spoilt if row["id"] == "s3" else row)
    trainer = make_trainer(
        method,
        model=model,
        train_dataset=task,
        peft_config=lora(target_modules=["q_proj", "v_proj"]),
        loss_average=average,
        **_SGD | {"max_steps": 2},
    )
    before = trained_weights(trainer).clone()
    trainer.train()
    assert torch.isfinite(trained_weights(trainer)).all()
    assert not torch.equal(trained_weights(trainer), before)
    assert all(loss > 1.0 for loss in logged(trainer, "loss"))
