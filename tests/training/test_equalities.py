"""Runs that must be the same by different ways, and scores of a run against an explicit loop at one of its steps."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import TrainerCallback

from dualselect.data import INDEX_COLUMN
from dualselect.methods import DualSelect, SafeGrad
from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

_SGD = {
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
}


@pytest.mark.parametrize(
    "choice", [{"reference_choice": "all"}, {"reference_choice": "random", "reference_fraction": 1.0}]
)
def test_a_fresh_direction_with_projection_is_safegrad(make_trainer, trained_weights, choice, tmp_path):
    """All references may be drawn, no sample is dropped, and both draw the same batch of three."""
    method = DualSelect(
        **choice,
        rho=1.0,
        direction="fresh",
        direction_every=1,
        direction_batch=3,
        correction="project",
        task_token_fraction=1.0,
        task_warmup_steps=0,
        preservation_loss="kl",
    )
    ours = make_trainer(method, output_dir=tmp_path / "ours")
    theirs = make_trainer(SafeGrad(safe_batch_size=3), output_dir=tmp_path / "theirs")
    start = trained_weights(ours).clone()
    ours.train()
    theirs.train()
    torch.testing.assert_close(trained_weights(ours), trained_weights(theirs), rtol=0, atol=1e-5)
    assert (trained_weights(ours) - start).abs().max() > 1e-2
    overlaps, expected = (
        [event[f"dualselect/{name}"] for event in run.state.log_history if f"dualselect/{name}" in event]
        for run, name in ((ours, "task_reference_cosine"), (theirs, "task_alignment_cosine"))
    )
    assert overlaps == pytest.approx(expected[1:], abs=1e-4)  # at the first step the KL is zero
    assert min(overlaps) < 0  # so that something was projected


# An explicit loop: the mean loss of the supervised tokens of one sample, by the model's own logits.


def gradient(trainer, row):
    """Return the loss of one sample and the gradient by each parameter's name."""
    model = trainer.model.eval()
    ids, labels = (torch.tensor([list(row[name])]) for name in ("input_ids", "labels"))
    loss = F.cross_entropy(model(input_ids=ids).logits[0, :-1], labels[0, 1:], ignore_index=-100)
    params = trainer.run.params
    return loss.item(), dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))


def mean(gradients):
    return {name: torch.stack([gradient[name] for gradient in gradients]).mean(0) for name in gradients[0]}


def flat(gradient):
    return torch.cat([part.flatten() for part in gradient.values()])


def raw_cosine(a, b, moments):
    return F.cosine_similarity(flat(a), flat(b), dim=0).item()


def adam_cosine(a, b, moments):
    """The cosine of a and b once both are divided by the square root of Adam's own denominator."""
    roots = {name: (moments[name].sqrt() + 1e-8).sqrt() for name in a}
    return raw_cosine(*({name: g[name] / roots[name] for name in g} for g in (a, b)), None)


def module_cosine(a, b, moments):
    """The mean over LoRA layers of the cosines of what A and B of a layer have together."""
    layers = {name.split(".lora_")[0] for name in a}
    assert len(layers) == len(a) // 2

    def part(g, layer):
        return torch.cat([g[f"{layer}.lora_{factor}.default.weight"].flatten() for factor in "AB"])

    return sum(F.cosine_similarity(part(a, k), part(b, k), dim=0).item() for k in layers) / len(layers)


COSINES = {"raw": raw_cosine, "adam": adam_cosine, "per_module": module_cosine}


def zscore(values):
    values = torch.tensor(values)
    return (values - values.mean()) / values.std(correction=0)


class Remember(TrainerCallback):
    """Keeps weights, Adam's moments and the sum of the task gradients as they are before a step."""

    def __init__(self, trainer, step):
        self.trainer, self.step = trainer, step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            trainer = self.trainer
            self.weights = {name: param.detach().clone() for name, param in trainer.run.params.items()}
            self.task = {name: part.clone() for name, part in trainer.method._task_sum.views().items()}
            states = {name: trainer.optimizer.state[param] for name, param in trainer.run.params.items()}
            self.moments = {name: s["exp_avg_sq"] / (1 - 0.999 ** int(s["step"])) for name, s in states.items()}


@pytest.mark.parametrize("metric", COSINES)
def test_scores_are_those_of_an_explicit_loop(make_trainer, metric):
    """At the third step, whose refresh looks at all references, with the optimizer's own moments of two steps."""
    method = DualSelect(
        score_metric=metric, task_warmup_steps=2, reference_fraction=0.3, mu_ref=0.5, nu=2.0, score_scaling="zscore"
    )
    trainer = make_trainer(method, max_steps=3, optim="adamw_torch")
    before = Remember(trainer, 2)
    trainer.add_callback(before)
    trainer.train()
    with torch.no_grad():
        for name, param in trainer.run.params.items():
            param.copy_(before.weights[name])
    tasks, references = (table.to_pylist() for table in SelectionLog.read(trainer.run_folder))
    cosine_of = COSINES[metric]

    def check(logged, rows, direction, mu):
        losses, gradients = zip(*(gradient(trainer, row) for row in rows), strict=True)
        cosines = [cosine_of(g, direction, before.moments) for g in gradients]
        scores = mu * zscore(losses) - 2.0 * zscore(cosines)
        assert [row["loss"] for row in logged] == pytest.approx(losses, rel=1e-4)
        assert [row["cosine"] for row in logged] == pytest.approx(cosines, abs=2e-4)
        assert [row["score"] for row in logged] == pytest.approx(scores.tolist(), abs=5e-3)
        return gradients

    gradients = check(references, trainer.run.pool().examples, before.task, 0.5)
    chosen = [g for g, row in zip(gradients, references, strict=True) if row["kept"]]
    assert len(chosen) == 3
    samples = {trainer.data.task_ids[row[INDEX_COLUMN]]: row for row in trainer.train_dataset}
    candidates = [row for row in tasks if row["step"] == 2]
    assert len(candidates) == 8
    check(candidates, [samples[row["id"]] for row in candidates], mean(chosen), 1.0)


@pytest.mark.parametrize("every", [1, 2])
def test_a_fresh_direction_is_that_of_an_explicit_loop(make_trainer, trained_weights, every):
    """With draws as large as the chosen references a draw is all of them, each once."""
    options = {"task_warmup_steps": 1, "task_token_fraction": 1.0, "reference_fraction": 0.4, "rho": 0.5}
    method = DualSelect(**options, direction="fresh", direction_batch=4, direction_every=every, refresh="steps")
    trainer = make_trainer(method, **_SGD, max_steps=4)
    start = {name: param.detach().clone() for name, param in trainer.run.params.items()}
    trainer.train()
    found = trained_weights(trainer).clone()
    tasks, references = (table.to_pylist() for table in SelectionLog.read(trainer.run_folder))
    chosen = [row for row, logged in zip(trainer.run.pool().examples, references, strict=True) if logged["kept"]]
    assert len(chosen) == math.ceil(0.4 * len(references))
    samples = {trainer.data.task_ids[row[INDEX_COLUMN]]: row for row in trainer.train_dataset}
    with torch.no_grad():
        for name, param in trainer.run.params.items():
            param.copy_(start[name])
    g_ref = None
    for step in range(4):
        batch = [samples[row["id"]] for row in tasks if row["step"] == step]
        update = mean([gradient(trainer, row)[1] for row in batch])
        if step >= 1:
            if (step - 1) % every == 0:
                g_ref = mean([gradient(trainer, row)[1] for row in chosen])
            update = {name: update[name] + 0.5 * g_ref[name] for name in update}
        with torch.no_grad():
            for name, param in trainer.run.params.items():
                param.sub_(0.1 * update[name])
    torch.testing.assert_close(found, trained_weights(trainer), rtol=0, atol=1e-5)
