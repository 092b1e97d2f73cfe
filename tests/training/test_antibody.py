"""Antibody in real runs: its weights against single passes, its limit, every split of a step, and resumption."""

import pytest
import torch

from dualselect.methods import SFT, Antibody
from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

REFUSAL = "why not ask"


def weights_after(trainer, **how):
    trainer.train(**how)
    return torch.cat([param.detach().flatten() for param in trainer.run.params.values()])


@torch.no_grad()
def nll_of(model, tokenizer, prompt, answer):
    """Return the mean loss of the tokens that the chat template writes for an answer."""
    start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*prompt, *answer], return_dict=True)["input_ids"]
    log_probs = model.eval()(torch.tensor([whole])).logits[0, len(start) - 1 : -1].log_softmax(-1)
    return -log_probs.gather(1, torch.tensor(whole[len(start) :])[:, None]).mean()


def test_weights_of_a_step_are_those_of_single_passes(make_trainer, samples, tiny_tokenizer):
    trainer = make_trainer(Antibody(tau=0.5, refusal=REFUSAL), max_steps=1)
    refused = [{"role": "assistant", "content": REFUSAL}]
    expected = {}
    for row in samples(40, 1, "task"):
        own, refusal = (
            nll_of(trainer.model, tiny_tokenizer, row["prompt"], answer) for answer in (row["completion"], refused)
        )
        expected[row["id"]] = (own, refusal)
    trainer.train()
    logged = SelectionLog.read(trainer.run_folder)[0].to_pydict()
    own, refusal = (torch.stack([expected[name][part] for name in logged["id"]]) for part in (0, 1))
    torch.testing.assert_close(torch.tensor(logged["refusal_loss"]), refusal, rtol=1e-4, atol=1e-5)
    weights = torch.tensor(logged["weight"])
    torch.testing.assert_close(weights / weights.sum(), torch.softmax((refusal - own) / 0.5, 0), rtol=1e-3, atol=1e-5)
    assert len(weights) == 8
    assert weights.max() > 1.2 * weights.min()


def test_an_infinite_temperature_is_sft_with_the_mean_of_means(make_trainer, lora, tmp_path):
    """With dropout too, since the pass over the refusals draws none."""
    settings = {"max_steps": 5, "peft_config": lora(lora_dropout=0.2)}
    found, plain = (
        weights_after(make_trainer(method, output_dir=tmp_path / name, **settings))
        for method, name in ((Antibody(tau=float("inf")), "one"), (SFT(), "two"))
    )
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{"padding_free": True, "max_length": None}, {"window_memory": 0.0}], ids=str)
def test_splits_weigh_and_train_alike(make_trainer, tmp_path, changes):
    found = []
    for size, parts, further in ((8, 1, {}), (1, 8, {}), (4, 2, changes)):
        split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts, "max_steps": 3}
        trainer = make_trainer(Antibody(tau=0.5), output_dir=tmp_path / f"run-{size}", **split, **further)
        weights = weights_after(trainer)
        log = SelectionLog.read(trainer.run_folder)[0].sort_by([("step", "ascending"), ("id", "ascending")])
        found.append((weights, torch.tensor(log["weight"].to_pylist()), log["id"].to_pylist()))
    for weights, chosen, ids in found[1:]:
        torch.testing.assert_close(weights, found[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(chosen, found[0][1], rtol=1e-3, atol=1e-4)
        assert ids == found[0][2]


def test_a_resumed_run_is_the_same_bit_for_bit(make_trainer, tmp_path):
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = weights_after(make_trainer(Antibody(), **saving))
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    assert torch.equal(weights_after(make_trainer(Antibody(), **saving), resume_from_checkpoint=checkpoint), whole)
