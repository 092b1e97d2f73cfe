"""SEAL, BDS and TOSS-Pro in real runs: against loops in plain torch, and with a step split in other ways."""

import pytest
import torch
from datasets import concatenate_datasets

from dualselect import DualSelectTrainer
from dualselect.methods import BDS, SEAL, SFT, TOSSPro, toss_pro
from dualselect.methods.seal import SelectorLoop
from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

# All 40 samples in one batch, and all references: no order of samples can matter.
WHOLE = {"per_device_train_batch_size": 40, "gradient_accumulation_steps": 1, "lr_scheduler_type": "constant"}
SAFE = 10


def losses_of(model, rows):
    """Return the loss of every row by a forward pass of its own."""
    batches = [(torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])) for row in rows]
    return torch.stack([model(input_ids=ids, labels=labels).loss for ids, labels in batches])


def by_hand(trainer, epochs, shares, rate, *, penalty=False):
    """Return the logits after some epochs of the loop, by autograd, and leave the model with its weights."""
    model, task, safe = trainer.model.eval(), list(trainer.train_dataset), list(trainer.run.pool().examples)
    params = list(trainer.run.params.values())
    second = [param.detach().clone() for param in params]
    logits = torch.nn.Parameter(torch.full((len(task),), 0.1))
    of_model = torch.optim.AdamW(params, lr=trainer.args.learning_rate, eps=1e-5, weight_decay=0.0)
    of_second = torch.optim.Adam(second, lr=trainer.args.learning_rate)
    of_logits = torch.optim.Adam([logits], lr=rate, betas=(0.9, 0.95))
    for epoch in range(epochs):
        of_task, of_safe = shares(epoch)
        weights = len(task) * logits.softmax(0)
        losses = losses_of(model, task)
        total = of_task * (weights.detach() * losses).mean() + of_safe * losses_of(model, safe).mean()
        gradients = torch.autograd.grad(total, params)
        judged = losses.detach()
        if penalty:
            first = [param.detach().clone() for param in params]
            with torch.no_grad():
                for param, value in zip(params, second, strict=True):
                    param.copy_(value)
            lower = losses_of(model, task)
            for value, gradient in zip(
                second, torch.autograd.grad((weights.detach() * lower).mean(), params), strict=True
            ):
                value.grad = gradient
            judged = judged - lower.detach()
            with torch.no_grad():
                for param, value in zip(params, first, strict=True):
                    param.copy_(value)
            of_second.step()
        of_logits.zero_grad()
        (weights * judged).mean().backward()
        of_logits.step()
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
        torch.nn.utils.clip_grad_norm_(params, trainer.args.max_grad_norm)
        of_model.step()
    return logits.detach()


def test_bds_is_the_loop_that_autograd_makes(make_trainer, trained_weights):
    settings = WHOLE | {"max_steps": 3}
    trainer = make_trainer(BDS(safe_batch_size=SAFE, safe_weight=0.5, weight_learning_rate=0.05), **settings)
    apart = make_trainer(BDS(), **settings)
    logits = by_hand(apart, 3, lambda epoch: (1.0, 0.5), 0.05)
    trainer.train()
    torch.testing.assert_close(trainer.method.learned.logits, logits, rtol=0, atol=2e-4)
    torch.testing.assert_close(trained_weights(trainer), trained_weights(apart), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("penalty", [False, True], ids=["single loop", "penalty"])
def test_the_selector_of_seal_is_the_loop_that_autograd_makes(make_trainer, trained_weights, penalty):
    trainer, apart = make_trainer(SEAL(), **WHOLE), make_trainer(SEAL(), **WHOLE)
    before = trained_weights(trainer).clone()
    options = {"upper_weight": 0.8, "upper_weight_decay": 0.2, "weight_learning_rate": 0.05, "penalty": penalty}
    loop = SelectorLoop(**options, safe_batch_size=SAFE)
    with trainer.run.trained(loop, trainer.train_dataset, num_train_epochs=3, max_steps=-1):
        trained = trained_weights(trainer).clone()
    logits = by_hand(apart, 3, lambda epoch: (0.2 + 0.2 * epoch, 0.8 - 0.2 * epoch), 0.05, penalty=penalty)
    torch.testing.assert_close(loop.learned.logits, logits, rtol=0, atol=1e-3)
    torch.testing.assert_close(trained, trained_weights(apart), rtol=1e-3, atol=1e-4)
    assert torch.equal(trained_weights(trainer), before)


@pytest.mark.parametrize(
    "method", [BDS(weight_learning_rate=0.05), SEAL(selector_epochs=2.0, upper_weight=0.5)], ids=lambda one: one.name
)
@pytest.mark.parametrize("average", ["sample", "token"])
def test_the_split_of_a_step_changes_neither_selection_nor_weights(
    make_trainer, trained_weights, tmp_path, method, average
):
    found = []
    for size, steps in ((8, 1), (1, 8)):
        folder = tmp_path / f"{size}x{steps}"
        split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = make_trainer(method, output_dir=folder, loss_average=average, **split)
        trainer.train()
        found.append((trainer, trained_weights(trainer)))
    (whole, expected), (split, weights) = found
    assert split.train_dataset["input_ids"][:] == whole.train_dataset["input_ids"][:]
    assert (len(whole.train_dataset) < 40) == (method.name == "seal")
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-4)
    if method.name == "bds":
        columns = [SelectionLog.read(trainer.run_folder)[0]["weight"].to_pylist() for trainer, _ in found]
        assert columns[0] == pytest.approx(columns[1], rel=1e-4)
        assert max(columns[0]) > 1.01


def test_with_u_1_the_model_of_the_selector_is_plain_sft_on_the_references(make_trainer, trained_weights):
    trainer = make_trainer(SEAL(), **WHOLE)
    loop = SelectorLoop(upper_weight=1.0, upper_weight_decay=0.0, safe_batch_size=SAFE)
    with trainer.run.trained(loop, trainer.train_dataset, num_train_epochs=2, max_steps=-1):
        trained = trained_weights(trainer).clone()
    plain = make_trainer(
        SFT(), train_dataset=trainer.data.raw["references"], **WHOLE | {"max_steps": 2, "prompt_overlap": "ignore"}
    )
    plain.train()
    torch.testing.assert_close(trained, trained_weights(plain), rtol=1e-3, atol=1e-4)


def test_toss_pro_continues_from_the_harmful_model(make_trainer, samples, tiny_tokenizer, monkeypatch):
    """The scores are those of a model trained by two runs, one after the other, and of a useful one."""
    pools = {"harmful": samples(8, 5, "harmful"), "utility": samples(8, 6, "utility")}
    seen = []
    scored = toss_pro.token_nll
    monkeypatch.setattr(toss_pro, "token_nll", lambda *given: seen.append(scored(*given)) or seen[-1])
    method = TOSSPro(drop_fraction=0.2, added_fraction=0.1, pool_epochs=2)
    base = make_trainer(SFT())
    trainer = DualSelectTrainer(
        model=base.model,
        args=base.args,
        train_dataset=base.data.raw["task"],
        method=method,
        pools=pools,
        processing_class=tiny_tokenizer,
    )
    joined = []
    riskiest = TOSSPro.riskiest
    monkeypatch.setattr(TOSSPro, "riskiest", lambda *given: joined.extend(riskiest(*given)) or joined)
    task = trainer.train_dataset
    trainer.method.prepare(task, trainer.run)
    assert len(seen) == 3
    assert len(joined) == 4
    first = make_trainer(SFT(), train_dataset=pools["harmful"], num_train_epochs=2, max_steps=-1)
    first.train()
    both = concatenate_datasets([pools["harmful"], base.data.raw["task"].select(sorted(joined))])
    second = make_trainer(SFT(), model=first.model, train_dataset=both, num_train_epochs=2, max_steps=-1, peft=False)
    second.train()
    model, expected = second.model.eval(), []
    for row in task:
        with torch.no_grad():
            log_probs = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        expected += [-log_probs[t - 1, label].item() for t, label in enumerate(row["labels"]) if t and label != -100]
    torch.testing.assert_close(seen[-1], torch.tensor(expected), rtol=1e-3, atol=1e-3)
