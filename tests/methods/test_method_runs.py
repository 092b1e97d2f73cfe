"""Methods in real runs: their limits are plain SFT bit for bit, and TOSS and EWC against loops."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import concatenate_datasets
from transformers import AutoTokenizer

from dualselect.methods import (
    AGEM,
    ASFT,
    DFT,
    EWC,
    GEM,
    HFT,
    PTST,
    SEAL,
    SFT,
    SPARD,
    TOSS,
    Antidote,
    Booster,
    Lisa,
    OLoRA,
    ProFit,
    Replay,
    SafeGrad,
    SafeInstr,
    TokenCleaning,
    TOSSPro,
)
from dualselect.training import DualSelectTrainer

pytestmark = pytest.mark.slow


def weights_after(trainer: DualSelectTrainer, **how: Any) -> dict[str, torch.Tensor]:
    trainer.train(**how)
    return {name: param.detach().clone() for name, param in trainer.run.params.items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "method",
    [
        Lisa(alignment_steps=0, rho=0.0),
        TOSS(drop_fraction=0.0),
        TOSSPro(drop_fraction=0.0),
        SEAL(keep_fraction=1.0),
        Booster(lamb=0.0, harmful_batch_size=4),
        Antidote(dense_ratio=0.0),
        Replay(rho=0.0),
        EWC(strength=0.0),
        OLoRA(),
        SafeInstr(safety_samples=0),
        SPARD(threshold=1e9),
        PTST(),
        ProFit(threshold=0.0),
        TokenCleaning(keep_fraction=1.0),
        HFT(trained_fraction=1.0),
    ],
    ids=lambda method: method.name,
)
def test_its_limit_is_plain_sft_bit_for_bit(trainer_of, method):
    assert_equal(weights_after(trainer_of(method)), weights_after(trainer_of(SFT(), folder="sft")))


def test_profit_s_random_tokens_do_not_depend_on_how_a_step_is_split(trainer_of):
    method, plain = ProFit(mode="random", threshold=0.5), {"optim": "sgd", "learning_rate": 0.1}
    runs = [
        weights_after(trainer_of(method, f"by {size}", per_device_train_batch_size=size, **plain | rest))
        for size, rest in ((4, {}), (2, {"gradient_accumulation_steps": 2}), (1, {"gradient_accumulation_steps": 4}))
    ]
    start = weights_after(trainer_of(SFT(), "start", **plain | {"learning_rate": 0.0}))
    for name, values in runs[0].items():
        for other in runs[1:]:
            torch.testing.assert_close(other[name], values, rtol=1e-4, atol=1e-6)
    assert any((values - start[name]).abs().max() > 1e-3 for name, values in runs[0].items())


def test_lisa_trains_on_the_references(trainer_of, pools):
    """Other safe answers lead to other weights, though only phases on the references read them."""
    method = Lisa(alignment_steps=2, finetune_steps=2, rho=0.0)
    trained = weights_after(trainer_of(method, max_steps=4))
    silent = pools["references"].map(lambda row: {"completion": [{"role": "assistant", "content": "no"}]})
    pools["references"] = silent
    changed = weights_after(trainer_of(method, max_steps=4, folder="other"))
    assert not all(torch.equal(trained[name], changed[name]) for name in trained)


def test_lisa_continues_with_its_anchor(trainer_of, tmp_path):
    method = Lisa(alignment_steps=1, finetune_steps=3, rho=0.5, proximal_start=0.0)
    settings = {"max_steps": 7, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    whole = weights_after(trainer_of(method, **settings))
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    resumed = weights_after(trainer_of(method, **settings), resume_from_checkpoint=checkpoint)
    assert_equal(resumed, whole)


def nll_of_tokens(model: Any, row: dict[str, list[int]]) -> list[float]:
    """Return the loss of every predicted token from the full logits of a single sample."""
    with torch.no_grad():
        log_probs = model.eval()(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    return [-log_probs[t - 1, label].item() for t, label in enumerate(row["labels"]) if t and label != -100]


def test_toss_masks_what_two_models_trained_apart_say(trainer_of, pools):
    trainer = trainer_of(TOSS(drop_fraction=0.2, pool_epochs=3))
    start = {name: param.detach().clone() for name, param in trainer.run.params.items()}
    rows = list(trainer.train_dataset)
    nll: dict[str, list[float]] = {}
    for pool in ("harmful", "utility"):
        apart = trainer_of(SFT(), pool, data=pools[pool], num_train_epochs=3)
        assert_equal({name: param.detach() for name, param in apart.run.params.items()}, start)
        apart.train()
        nll[pool] = [value for row in rows for value in nll_of_tokens(apart.model, row)]
    scores = [utility - harmful for utility, harmful in zip(nll["utility"], nll["harmful"], strict=True)]
    worst = set(sorted(range(len(scores)), key=lambda token: -scores[token])[: int(0.2 * len(scores))])
    expected, token = [], 0
    for row in rows:
        labels = []
        for t, label in enumerate(row["labels"]):
            is_predicted = t > 0 and label != -100
            labels.append(-100 if is_predicted and token in worst else label)
            token += is_predicted
        expected.append(labels)
    trainer.train()
    assert trainer.train_dataset["labels"][:] == [labels for labels in expected if any(x != -100 for x in labels)]


def test_antidote_prunes_what_sft_has_trained(trainer_of):
    plain = weights_after(trainer_of(SFT(), folder="sft"))
    pruned = weights_after(trainer_of(Antidote(dense_ratio=0.25)))
    for name, weight in pruned.items():
        assert ((weight == 0).sum(1) == weight.shape[1] // 4).all()
        assert torch.equal(weight[weight != 0], plain[name][weight != 0])


def test_booster_differs_from_sft_and_leaves_a_trace(trainer_of, tmp_path: Path):
    trainer = trainer_of(Booster(harmful_batch_size=4), logging_steps=1)
    boosted = weights_after(trainer)
    plain = weights_after(trainer_of(SFT(), folder="sft"))
    assert not all(torch.equal(boosted[name], plain[name]) for name in plain)
    assert all(torch.isfinite(weight).all() for weight in boosted.values())
    assert "dualselect/harmful_norm" in trainer.state.log_history[0]


@pytest.mark.parametrize("size", [3, 8])
def test_agem_is_safegrad_without_weight_and_gem_with_one_memory(trainer_of, pools, size):
    other = pools["references"].map(lambda row: {"completion": [{"role": "assistant", "content": "9 " * 40}]})
    pools["references"] = other  # which the task's words oppose
    agem = weights_after(trainer_of(AGEM(memory_batch_size=size)))
    safegrad = SafeGrad(rho=0.0, safe_batch_size=size, preservation_loss="sft")
    assert_equal(weights_after(trainer_of(safegrad, folder="safegrad")), agem)
    gem = weights_after(trainer_of(GEM(memory_batch_size=size), folder="gem"))
    for name, values in agem.items():
        torch.testing.assert_close(gem[name], values, rtol=0, atol=1e-5)
    assert not all(torch.equal(agem[name], value) for name, value in weights_after(trainer_of(SFT())).items())


def test_ewc_measures_the_fisher_information_of_single_samples(trainer_of):
    """The trainer's pool, padded and in batches, against a backward pass for each sample alone."""
    trainer = trainer_of(EWC(strength=1.0), max_steps=1)
    expected = {name: torch.zeros_like(param) for name, param in trainer.run.params.items()}
    for row in trainer.run.pool().examples:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        log_probs = trainer.model.eval()(ids).logits[0, :-1].log_softmax(-1)
        answer = labels[0, 1:] != -100
        log_probs[answer].gather(1, labels[0, 1:][answer][:, None]).sum().backward()
        for name, param in trainer.run.params.items():
            expected[name] += param.grad**2 / 8
            param.grad = None
    trainer.train()
    fisher = trainer.method.state_dict()[0]["fisher"].views()
    for name, values in expected.items():
        torch.testing.assert_close(fisher[name], values, rtol=1e-3, atol=1e-6)


def test_ewc_continues_from_a_checkpoint(trainer_of, tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    whole = weights_after(trainer_of(EWC(strength=10.0), **settings))
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    assert_equal(weights_after(trainer_of(EWC(strength=10.0), **settings), resume_from_checkpoint=checkpoint), whole)


def test_o_lora_lowers_the_overlap_with_an_earlier_adapter(trainer_of, tmp_path):
    first = trainer_of(SFT(), folder="first", max_steps=2)
    first.train()
    first.model.save_pretrained(tmp_path / "adapter")
    overlaps = []
    for weight in (0.0, 0.5):
        method = OLoRA(earlier=str(tmp_path / "adapter"), orthogonality=weight)
        found = weights_after(trainer_of(method, folder=f"second-{weight}"))
        earlier = {name: param for name, param in first.run.params.items() if ".lora_A." in name}
        overlaps.append(sum(float((found[name] @ old.T).abs().sum()) for name, old in earlier.items()))
    assert overlaps[1] < 0.9 * overlaps[0]


def test_safeinstr_trains_on_the_task_and_all_references(trainer_of, task, pools, tmp_path):
    """As plain SFT does on the two files in one, which also gives the added rows the names they have there."""
    method = SafeInstr()
    trainer = trainer_of(method, num_train_epochs=1, gradient_accumulation_steps=2)
    mixed = weights_after(trainer)
    both = concatenate_datasets([task, pools["references"]])
    plain = trainer_of(SFT(), "sft", data=both, num_train_epochs=1, gradient_accumulation_steps=2)
    assert_equal(mixed, weights_after(plain))
    assert trainer.run.sample_ids == plain.run.sample_ids == both["id"][:]
    assert trainer.state.global_step == 3  # 16 and 8 samples by 8
    resumed = trainer_of(method, num_train_epochs=1, gradient_accumulation_steps=2, save_strategy="steps", save_steps=2)
    resumed.train()
    resumed = trainer_of(method, num_train_epochs=1, gradient_accumulation_steps=2, save_strategy="steps", save_steps=2)
    assert_equal(weights_after(resumed, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2")), mixed)


def test_ptst_saves_a_template_with_the_prompt_and_leaves_the_callers_tokenizer_alone(
    trainer_of, tmp_path, tiny_tokenizer
):
    before = tiny_tokenizer.chat_template
    saved = {}
    for method in (SFT(), PTST(safety_prompt="be safe")):
        trainer = trainer_of(method, folder=method.name, max_steps=1)
        trainer.train()
        trainer.save_model()
        saved[method.name] = AutoTokenizer.from_pretrained(tmp_path / method.name)
        assert tiny_tokenizer.chat_template == before
        assert not any("be safe" in tiny_tokenizer.decode(ids) for ids in trainer.train_dataset["input_ids"])
    texts = {
        name: tokenizer.apply_chat_template([{"role": "user", "content": "why"}], tokenize=False)
        for name, tokenizer in saved.items()
    }
    assert texts["ptst"] == "system: be safe<end>\n" + texts["sft"]


def test_dft_is_trl_s_and_asft_begins_with_it(trainer_of, make_tiny_model, tiny_tokenizer, tmp_path):
    """TRL computes its DFT by itself: over two micro-batches a step, with its token mean."""
    settings = {"gradient_accumulation_steps": 2, "adam_epsilon": 1e-5}
    ours = weights_after(trainer_of(DFT(), loss_average="token", **settings))
    plain = weights_after(trainer_of(SFT(), loss_average="token", folder="sft", **settings))
    like = trainer_of(SFT(), folder="like", loss_average="token", loss_type="dft", **settings)
    assert like.takes_trl_step()
    like.train()
    for name, weight in ours.items():
        theirs = dict(like.run.params)[name].detach()
        torch.testing.assert_close(weight, theirs, rtol=1e-3, atol=1e-5)
    assert max((ours[name] - plain[name]).abs().max() for name in ours) > 1e-3
    first = weights_after(trainer_of(DFT(), folder="first", max_steps=1, **settings))
    anchored = weights_after(trainer_of(ASFT(kl_weight=1.0), folder="anchored", max_steps=1, **settings))
    for name, weight in first.items():
        torch.testing.assert_close(weight, anchored[name], rtol=0, atol=1e-5)
    later = weights_after(trainer_of(ASFT(kl_weight=1.0), folder="later", loss_average="token", **settings))
    assert max((ours[name] - later[name]).abs().max() for name in ours) > 1e-4


@pytest.mark.parametrize("average", ["sample", "token"])
def test_hft_leaves_frozen_weights_as_they_are_also_after_a_resume(make_tiny_model, trainer_of, tmp_path, average):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "weight_decay": 0.1}
    settings |= {"lr_scheduler_type": "constant", "loss_average": average}
    trainer = trainer_of(HFT(), **settings)
    before = {name: param.detach().clone() for name, param in trainer.model.named_parameters() if ".lora_" in name}
    weights = weights_after(trainer)
    assert len(weights) == len(before) / 2
    for name, param in trainer.model.named_parameters():
        if ".lora_" in name:
            assert torch.equal(param, before[name]) == (name not in weights)
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    assert_equal(weights_after(trainer_of(HFT(), **settings), resume_from_checkpoint=checkpoint), weights)
