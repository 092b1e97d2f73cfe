"""In its limits the trainer is plain SFT: the same weights as TRL's own trainer after the same steps."""

import pytest
import torch
from trl import SFTConfig, SFTTrainer

from dualselect.methods import SFT, DualSelect, Random

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


@pytest.mark.parametrize("method", [DualSelect(task_warmup_steps=2, selection="soft"), SFT()], ids=["selecting", "sft"])
def test_padding_free_changes_nothing(make_trainer, trained_weights, method):
    padded = make_trainer(method)
    free = make_trainer(method, padding_free=True, max_length=None)
    padded.train()
    free.train()
    torch.testing.assert_close(trained_weights(free), trained_weights(padded), **CLOSE)
