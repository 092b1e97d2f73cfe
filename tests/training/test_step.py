"""One update of the trainer against the algorithm written out sample by sample."""

import math

import torch
import torch.nn.functional as F

from dualselect.data import INDEX_COLUMN
from dualselect.methods import DualSelect
from dualselect.runs.selection_log import SelectionLog

WARMUP, STEPS = 2, 4


def nll_gradient(model, example):
    """Return the mean NLL of the supervised tokens of one sample, and its gradient, by one plain backward pass."""
    params = [p for p in model.parameters() if p.requires_grad]
    ids, labels = (torch.tensor([list(example[name])]) for name in ("input_ids", "labels"))
    logits = model(input_ids=ids).logits[0, :-1]
    loss = F.cross_entropy(logits, labels[0, 1:], ignore_index=-100)
    return loss.item(), torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])


def zscore(values):
    return (values - values.mean()) / values.std(correction=0)


def written_out(trainer, batches, method):
    """Return the weights after SGD on `batches` (lists of sample indices) by the equations of the paper."""
    model, pool = trainer.model.eval(), trainer.run.pool().examples
    params = [p for p in model.parameters() if p.requires_grad]
    by_index = {row[INDEX_COLUMN]: row for row in trainer.train_dataset}
    g_ref, past, surplus = None, [], 0.0
    for step, batch in enumerate(batches):
        if step == WARMUP:
            d = torch.stack(past).mean(0)
            losses, gradients = zip(*(nll_gradient(model, row) for row in pool), strict=True)
            cosines = torch.stack([F.cosine_similarity(g, d, dim=0) for g in gradients])
            s = method.mu_ref * zscore(torch.tensor(losses)) - method.nu * zscore(cosines)
            chosen = s.argsort(descending=True)[: math.ceil(method.reference_fraction * len(pool))]
            g_ref = torch.stack([gradients[j] for j in chosen]).mean(0)
        losses, gradients = zip(*(nll_gradient(model, by_index[i]) for i in batch), strict=True)
        tokens = torch.tensor([sum(label != -100 for label in by_index[i]["labels"][1:]) for i in batch])
        kept = list(range(len(batch)))
        if g_ref is not None:
            cosines = torch.stack([F.cosine_similarity(g, g_ref, dim=0) for g in gradients])
            s = method.mu_task * zscore(torch.tensor(losses)) - method.nu * zscore(cosines)
            budget, kept = method.task_token_fraction * tokens.sum() - surplus, []
            for i in s.argsort().tolist():
                if tokens[kept].sum() < budget or not kept:
                    kept.append(i)
            surplus += tokens[kept].sum() - method.task_token_fraction * tokens.sum()
        g_task = torch.stack([gradients[i] for i in kept]).mean(0)
        past.append(g_task)
        update = g_task if g_ref is None else g_task + method.rho * g_ref
        offset = 0
        for param in params:
            param.data -= 0.1 * update[offset : offset + param.numel()].view_as(param)
            offset += param.numel()
    return torch.cat([p.detach().flatten() for p in params])


def test_a_run_equals_the_algorithm_written_out(make_trainer, trained_weights):
    options = {"task_warmup_steps": WARMUP, "task_token_fraction": 0.7, "reference_fraction": 0.3, "rho": 0.5}
    plain_sgd = {
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_accumulation_steps": 1,
        "max_steps": STEPS,
    }
    method = DualSelect(score_scaling="zscore", **options)
    trainer = make_trainer(method, **plain_sgd)
    trainer.train()
    tasks, references = SelectionLog.read(trainer.run_folder)
    batches = [
        [
            trainer.data.task_ids.index(name)
            for name, at in zip(*_columns(tasks, "id", "step"), strict=True)
            if at == step
        ]
        for step in range(STEPS)
    ]
    assert [len(batch) for batch in batches] == [4] * STEPS
    assert sum(_columns(references, "kept")[0]) == 3
    again = make_trainer(DualSelect(score_scaling="zscore", **options), **plain_sgd)
    expected = written_out(again, batches, method)
    torch.testing.assert_close(trained_weights(trainer), expected, rtol=0, atol=1e-5)


def _columns(table, *names):
    return [table[name].to_pylist() for name in names]
