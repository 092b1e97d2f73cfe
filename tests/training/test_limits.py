"""In its limits the trainer is plain SFT: the same weights as TRL's own trainer after the same steps."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer
from trl.models.activation_offloading import OffloadActivations

from dualselect import DualSelectConfig, DualSelectTrainer
from dualselect.methods import SFT, DualSelect, Random

pytestmark = pytest.mark.slow

# The learning rate is 1e-2; between different methods weights differ by a thousand times as much.
CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def trl_weights(make_tiny_model, tiny_tokenizer, settings, samples, lora, trained_weights):
    def train(peft=True, **changes):
        trainer = SFTTrainer(
            model=make_tiny_model(),
            args=settings(SFTConfig, **changes),
            train_dataset=samples(40, 1, "task").remove_columns("id"),
            processing_class=tiny_tokenizer,
            peft_config=lora() if peft else None,
        )
        trainer.train()
        return trained_weights(trainer)

    return train


@pytest.mark.parametrize("peft", [True, False], ids=["lora", "full"])
def test_sft_is_trl_bit_for_bit(make_trainer, trl_weights, trained_weights, peft):
    trainer = make_trainer(SFT(), peft=peft, loss_average="token")
    trainer.train()
    assert torch.equal(trained_weights(trainer), trl_weights(peft))


@pytest.mark.parametrize("peft", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize(
    "method",
    [
        DualSelect(rho=0.0, task_token_fraction=1.0, task_warmup_steps=2, refresh="steps", refresh_every=2),
        DualSelect(preset="released-code", rho=0.0, task_top_k=8, reference_top_k=3, task_warmup_steps=2),
        DualSelect(rho=0.0, selection="soft", tau_task=1e9, task_warmup_steps=1),
        Random(task_token_fraction=1.0),
    ],
    ids=["paper", "released-code", "soft", "random"],
)
def test_selecting_all_without_correction_is_trl(make_trainer, trl_weights, trained_weights, method, peft):
    trainer = make_trainer(method, peft=peft, loss_average="token")
    trainer.train()
    torch.testing.assert_close(trained_weights(trainer), trl_weights(peft), **CLOSE)


def test_the_sample_average_is_the_same_with_and_without_selection(make_trainer, trained_weights, trl_weights):
    plain = make_trainer(SFT(), loss_average="sample")
    plain.train()
    selecting = make_trainer(DualSelect(rho=0.0, task_token_fraction=1.0, task_warmup_steps=2))
    selecting.train()
    torch.testing.assert_close(trained_weights(selecting), trained_weights(plain), **CLOSE)
    assert (trained_weights(plain) - trl_weights()).abs().max() > 1e-3  # the two averages differ


def test_losses_are_reported_as_trl_reports_them(
    make_trainer, make_tiny_model, tiny_tokenizer, settings, samples, lora
):
    theirs = SFTTrainer(
        model=make_tiny_model(),
        args=settings(SFTConfig),
        train_dataset=samples(40, 1, "task").remove_columns("id"),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    ours = make_trainer(DualSelect(rho=0.0, task_token_fraction=1.0), loss_average="token")
    theirs.train()
    ours.train()
    for here, there in zip(ours.state.log_history[:-1], theirs.state.log_history[:-1], strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "num_tokens", "epoch"):
            assert here[name] == pytest.approx(there[name], rel=1e-4), name


def test_gradient_accumulation_equals_one_large_batch(make_trainer, trained_weights):
    method = {"rho": 0.5, "task_token_fraction": 1.0, "task_warmup_steps": 2}
    split = make_trainer(DualSelect(**method), per_device_train_batch_size=2, gradient_accumulation_steps=4)
    whole = make_trainer(DualSelect(**method), per_device_train_batch_size=8, gradient_accumulation_steps=1)
    split.train()
    whole.train()
    torch.testing.assert_close(trained_weights(split), trained_weights(whole), **CLOSE)


def test_checkpointing_changes_nothing(make_trainer, trained_weights):
    method = {"task_warmup_steps": 2, "selection": "soft"}
    plain = make_trainer(DualSelect(**method))
    checkpointed = make_trainer(DualSelect(**method), gradient_checkpointing=True)
    plain.train()
    checkpointed.train()
    torch.testing.assert_close(trained_weights(checkpointed), trained_weights(plain), **CLOSE)


@pytest.fixture
def offloading(monkeypatch):
    """Return a function that makes TRL's context of offloading, for a CPU that is taken for an accelerator."""

    def make():
        with monkeypatch.context() as patched:
            patched.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cpu"))
            return OffloadActivations(use_pin_memory=False, use_streams=False, min_offload_size=16)

    monkeypatch.setattr(torch.cpu, "empty_cache", lambda: None, raising=False)
    return make


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        pytest.param(DualSelect(task_warmup_steps=1), {}, id="selecting"),
        pytest.param(DualSelect(task_warmup_steps=1), {"window_memory": 0.0}, id="second pass"),
        pytest.param(SFT(), {}, id="sft"),
    ],
)
def test_offloading_activations_changes_nothing(make_trainer, trained_weights, offloading, method, changes):
    plain = make_trainer(method, max_steps=3, **changes)
    offloaded = make_trainer(method, max_steps=3, **changes)
    context = offloaded.maybe_activation_offload_context = offloading()
    plain.train()
    offloaded.train()
    assert context.tensor_id > 0  # it was given the activations of the last step
    torch.testing.assert_close(trained_weights(offloaded), trained_weights(plain), **CLOSE)


def test_a_refresh_offloads_as_a_step_does(make_trainer, offloading):
    trainer = make_trainer(DualSelect())
    pool = trainer.run.pool()
    plain = pool.gradient(torch.ones(len(pool)))
    context = trainer.maybe_activation_offload_context = offloading()
    assert torch.equal(pool.gradient(torch.ones(len(pool))).vector, plain.vector)
    assert context.tensor_id > 0


def test_qlora_is_trl_within_rounding(
    make_tiny_model, tiny_tokenizer, settings, samples, lora, trained_weights, tmp_path
):
    """The base is quantised to 4 bits; adapters are bf16 there, of whose rounding weights differ by less than 1%."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    make_tiny_model().save_pretrained(tmp_path / "base")

    def train(kind, args, **given):
        trainer = kind(
            model=AutoModelForCausalLM.from_pretrained(
                tmp_path / "base", quantization_config=quantised, device_map={"": "cpu"}
            ),
            args=settings(args, max_steps=3, optim="sgd", learning_rate=0.5, lr_scheduler_type="constant", **given),
            processing_class=tiny_tokenizer,
            peft_config=lora(),
            train_dataset=samples(40, 1, "task").remove_columns("id"),
            **({"method": Random(task_token_fraction=1.0)} if kind is DualSelectTrainer else {}),
        )
        before = trained_weights(trainer).float().clone()
        trainer.train()
        return trainer, trained_weights(trainer).float() - before

    theirs, expected = train(SFTTrainer, SFTConfig)
    ours, moved = train(DualSelectTrainer, DualSelectConfig, loss_average="token")
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in ours.model.modules())
    assert (moved - expected).norm() < 0.02 * expected.norm()
    for here, there in zip(ours.state.log_history[:-1], theirs.state.log_history[:-1], strict=True):
        assert here["loss"] == pytest.approx(there["loss"], rel=1e-2)


@pytest.mark.parametrize("method", [DualSelect(task_warmup_steps=2, selection="soft"), SFT()], ids=["selecting", "sft"])
def test_padding_free_changes_nothing(make_trainer, trained_weights, method):
    padded = make_trainer(method)
    free = make_trainer(method, padding_free=True, max_length=None)
    padded.train()
    free.train()
    torch.testing.assert_close(trained_weights(free), trained_weights(padded), **CLOSE)
