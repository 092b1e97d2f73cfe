"""Rollouts against plain loops over single samples, and their limits that hold exactly."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy import stats
from torch.nn.utils import clip_grad_norm_

from dualselect.diagnostics.reductions import reductions
from dualselect.diagnostics.rollouts import Rollouts, RolloutSettings, TaskBatch, roll_out, spread_over_groups
from dualselect.errors import TrainingError
from dualselect.gradients import Direction, Watch, trainable_parameters
from dualselect.runs.diagnostic import TASK_ONLY, Rollout, read_table
from dualselect.selection import Pool, remember_start

pytestmark = pytest.mark.slow

SETTINGS = RolloutSettings(learning_rate=1e-2, reference_weight=0.7)
BATCH = TaskBatch("code-0", "code", [0, 2, 3])
OTHER = TaskBatch("maths-0", "maths", [1, 4, 5])
CHOSEN = [1, 2, 4]
SUMS = ("preserve-kl", "additive-loss", "align-ref")
PROJECTIONS = ("project-conflict", "remove-conflict")


def samples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(5, 14, (1,), generator=generator))
        ids = torch.randint(3, 128, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [-100] * 3 + ids[3:]})
    return made


TASK, PROBE = samples(6, 1), samples(5, 3)


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name, value):
        return torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])

    ids = padded("input_ids", 0)
    return {"input_ids": ids, "labels": padded("labels", -100), "attention_mask": (ids != 0).long()}


@pytest.fixture
def model(make_tiny_model):
    """A fresh LoRA, which is the aligned model, with dropout and in training mode."""
    model = get_peft_model(make_tiny_model(), LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.2))
    return model.train()


def moved(model):
    """Move the adapter away from the aligned model, as a warm-up does."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for param in trainable_parameters(model).values():
            param.add_(torch.randn(param.shape, generator=generator), alpha=0.05)


def own_answers(model):
    """Return the task's samples with what the model itself says as answers, from which the task leads away."""
    with torch.no_grad():
        said = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0].argmax(-1).tolist() for row in TASK]
    return [row | {"labels": [-100] * 3 + own[2:-1]} for row, own in zip(TASK, said, strict=True)]


def rollouts_of(model, settings=SETTINGS, *, from_aligned=False):
    params = trainable_parameters(model)
    aligned, references = remember_start(params), own_answers(model.eval())
    model.train()
    if not from_aligned:
        moved(model)
    watch = Watch(model, params)
    pools = [
        Pool(rows, [f"r{place}" for place in range(len(rows))], watch, model, params, collate, tokens_per_batch=30)
        for rows in (TASK, references, PROBE)
    ]
    return Rollouts(*pools, aligned, settings)


# The truth: one sample at a time, whole logits, plain autograd.


def nll(model, row):
    return model(**collate([row])).loss


def token_kls(model, row):
    inputs = {"input_ids": torch.tensor([row["input_ids"]])}
    with torch.no_grad(), model.disable_adapter():
        aligned = model(**inputs).logits[0, 2:-1].log_softmax(-1)
    now = model(**inputs).logits[0, 2:-1].log_softmax(-1)
    return torch.nn.functional.kl_div(now, aligned, reduction="none", log_target=True).sum(-1)


def mean_over(rows, loss):
    return torch.stack([loss(row) for row in rows]).mean()


def flat_gradient(loss, params):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])


def true_rollout(model, references, correction, settings):
    """Fine-tune in place as the card says, and return the cosines of the two gradients where they are taken apart."""
    params, w = list(trainable_parameters(model).values()), settings.reference_weight
    optimizer = torch.optim.AdamW(params, lr=settings.learning_rate)
    cosines = []
    for _ in range(settings.steps):
        task = mean_over([TASK[row] for row in BATCH.rows], lambda row: nll(model, row))
        if correction == "preserve-kl":
            g = flat_gradient(task + w * mean_over(references, lambda row: token_kls(model, row).mean()), params)
        elif correction == "additive-loss":
            g = flat_gradient(task + w * mean_over(references, lambda row: nll(model, row)), params)
        else:
            g = flat_gradient(task, params)
            g_ref = flat_gradient(mean_over(references, lambda row: nll(model, row)), params)
            cosines.append(float(torch.cosine_similarity(g, g_ref, dim=0)))
            if correction in PROJECTIONS and g @ g_ref < 0:
                g = g - (g @ g_ref) / (g_ref @ g_ref) * g_ref
            if correction != "remove-conflict":
                g = g + w * g_ref
        for param, part in zip(params, g.split([param.numel() for param in params]), strict=True):
            param.grad = part.view_as(param).clone()
        if settings.max_grad_norm:
            clip_grad_norm_(params, settings.max_grad_norm)
        optimizer.step()
    return cosines


def true_probe_kl(model):
    with torch.no_grad():
        return torch.cat([token_kls(model, row) for row in PROBE]).mean().item()


# Against the truth.


def test_the_kl_on_the_probe_is_the_mean_over_all_tokens(model):
    rollouts = rollouts_of(model)
    assert rollouts.probe_kl() > 1e-3
    model.eval()
    assert rollouts.probe_kl() == pytest.approx(true_probe_kl(model), rel=1e-4)


def test_the_kl_on_the_probe_is_not_that_of_rounded_logits(make_tiny_model):
    def half():
        torch.manual_seed(0)
        base = make_tiny_model().bfloat16()
        return get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))

    kls = {}
    for name, model in (("half", half()), ("full", half().float())):
        rollouts = rollouts_of(model, from_aligned=True)
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with torch.no_grad():
            for param in trainable_parameters(model).values():
                param.mul_(1.001)
        kls[name] = rollouts.probe_kl()
        rollouts.start.copy_to(trainable_parameters(model))
        after = model.state_dict()
        assert all(torch.equal(after[key], value) and after[key].dtype == value.dtype for key, value in before.items())
    assert kls["half"] == pytest.approx(kls["full"], rel=1e-3)
    assert kls["full"] > 0


def test_a_model_that_is_trained_in_half_precision_is_measured_in_it(make_tiny_model):
    rollouts = rollouts_of(make_tiny_model().bfloat16())
    assert rollouts.task_only(BATCH).kl_after > 0


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.5])
@pytest.mark.parametrize("correction", [*SUMS, *PROJECTIONS])
def test_a_rollout_equals_a_plain_loop(model, correction, max_grad_norm):
    settings = replace(SETTINGS, max_grad_norm=max_grad_norm)
    rollouts = rollouts_of(model, settings)
    alone = rollouts.task_only(BATCH)
    found = rollouts.preserving(BATCH, "some", CHOSEN, correction, alone)
    model.eval()
    rollouts.start.copy_to(trainable_parameters(model))
    loss_before = mean_over([TASK[row] for row in BATCH.rows], lambda row: nll(model, row)).item()
    kl_before = true_probe_kl(model)
    references = [rollouts.references.examples[row] for row in CHOSEN]
    cosines = true_rollout(model, references, correction, settings)
    loss_after = mean_over([TASK[row] for row in BATCH.rows], lambda row: nll(model, row)).item()
    assert found.kl_after == pytest.approx(true_probe_kl(model), rel=1e-3)
    assert alone.kl_before == pytest.approx(kl_before, rel=1e-3)
    assert (found.loss_before, found.loss_after) == pytest.approx((loss_before, loss_after), rel=1e-4)
    assert found.reduction == alone.kl_after - found.kl_after == found.kl_before - found.kl_after
    if cosines:
        assert found.cosine == pytest.approx(sum(cosines) / 3, abs=1e-4)
        assert min(cosines) < 0 or correction not in PROJECTIONS, "nothing was projected"


# Limits that hold exactly.


@pytest.mark.parametrize("correction", SUMS)
def test_references_of_weight_zero_change_nothing_whatever_is_drawn(model, correction):
    rollouts = rollouts_of(model, replace(SETTINGS, reference_weight=0.0, samples_per_step=2))
    alone = rollouts.task_only(BATCH)
    assert rollouts.preserving(BATCH, "some", CHOSEN, correction, alone).reduction == 0.0


@pytest.mark.parametrize("correction", PROJECTIONS)
def test_a_projection_needs_no_weight(model, correction):
    rollouts = rollouts_of(model, replace(SETTINGS, reference_weight=0.0))
    alone = rollouts.task_only(BATCH)
    assert rollouts.preserving(BATCH, "some", CHOSEN, correction, alone).reduction != 0.0


def test_from_the_aligned_model_the_first_step_of_preserve_kl_is_that_of_the_task_alone(model):
    for steps, is_equal in ((1, True), (2, False)):
        rollouts = rollouts_of(model, replace(SETTINGS, steps=steps), from_aligned=True)
        alone = rollouts.task_only(BATCH)
        assert alone.kl_before == 0.0 < alone.kl_after
        assert (rollouts.preserving(BATCH, "some", CHOSEN, "preserve-kl", alone).reduction == 0.0) == is_equal
        rollouts.start.copy_to(trainable_parameters(model))


def test_additive_loss_and_align_ref_agree(model):
    rollouts = rollouts_of(model, replace(SETTINGS, steps=1, max_grad_norm=0.0))
    alone = rollouts.task_only(BATCH)
    loss, gradients = (
        rollouts.preserving(BATCH, "some", CHOSEN, name, alone) for name in ("additive-loss", "align-ref")
    )
    assert replace(loss, correction="align-ref") == gradients
    assert loss.reduction != 0.0


# The table.

STRATEGIES = {
    "some": {"code-0": [1, 2, 4], "maths-0": [0, 1, 2]},
    "others": {"code-0": [0, 3, 5], "maths-0": [3, 4, 5]},
}
WAYS = ["preserve-kl", "project-conflict"]
DRAWS = replace(SETTINGS, steps=2, samples_per_step=2)


def test_an_interrupted_table_continues_and_ends_as_the_unbroken_one(model, tmp_path, monkeypatch):
    rollouts = rollouts_of(model, DRAWS)
    roll_out(rollouts, [BATCH, OTHER], STRATEGIES, WAYS, tmp_path / "unbroken")
    made, preserving = [], Rollouts.preserving

    def interrupted(self, batch, strategy, chosen, correction, alone):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append((batch.name, strategy, correction))
        return preserving(self, batch, strategy, chosen, correction, alone)

    monkeypatch.setattr(Rollouts, "preserving", interrupted)
    with pytest.raises(KeyboardInterrupt):
        roll_out(rollouts, [BATCH, OTHER], STRATEGIES, WAYS, tmp_path / "broken")
    assert torch.equal(Direction.of(trainable_parameters(model)).vector, rollouts.start.vector)
    assert read_table(tmp_path / "broken", "rollouts").num_rows == 5 + 2
    first = made.copy()
    made.clear()
    monkeypatch.setattr(Rollouts, "task_only", None)  # both of these are there already
    roll_out(rollouts, [BATCH, OTHER], STRATEGIES, WAYS, tmp_path / "broken")
    assert not set(first) & set(made)
    assert read_table(tmp_path / "broken", "rollouts").equals(read_table(tmp_path / "unbroken", "rollouts"))


def test_the_order_does_not_matter(model, tmp_path):
    rollouts = rollouts_of(model, DRAWS)
    there = roll_out(rollouts, [BATCH, OTHER], STRATEGIES, WAYS, tmp_path / "there")
    turned = dict(reversed(STRATEGIES.items()))
    back = roll_out(rollouts, [OTHER, BATCH], turned, WAYS[::-1], tmp_path / "back")
    assert set(there) == set(back)
    assert len({one.kl_after for one in there}) == len(there) == 10


def test_a_rollout_that_diverges_is_named(model):
    rollouts = rollouts_of(model, replace(SETTINGS, learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"batch code-0 with task-only: the KL on the probe is nan"):
        rollouts.task_only(BATCH)


def test_the_batches_of_a_few_rollouts_come_from_all_groups():
    batches = [TaskBatch(f"{group}-{number}", group, [0]) for group in ("a", "b", "c") for number in range(3)]
    names = [batch.name for batch in spread_over_groups(batches, 5)]
    assert names == ["a-0", "a-1", "b-0", "b-1", "c-0"]
    assert spread_over_groups(batches, None) == batches


# Reductions.


def test_reductions_are_paired_by_batch_as_scipy_pairs_them():
    kls = {
        "task-only": [0.5, 0.6, 0.4, 0.7],
        "ours": [0.3, 0.35, 0.4, 0.75],
        "fixed": [0.45, 0.5, 0.38, 0.72],
    }
    rows = [
        Rollout(
            name, "" if name == TASK_ONLY else "preserve-kl", f"b{batch}", "g", before, kl, before - kl, 1, 1, 3, 0, 0
        )
        for name, found in kls.items()
        for batch, (before, kl) in enumerate(zip(kls[TASK_ONLY], found, strict=True))
    ]
    ours, fixed = reductions(rows, "ours")
    gains = [0.2, 0.25, 0.0, -0.05]
    interval = stats.ttest_1samp(gains, 0).confidence_interval(0.95)
    assert (ours["strategy"], ours["n"], ours["wins"]) == ("ours", 4, 0.5)
    assert (ours["mean"], ours["median"], ours["p90"]) == pytest.approx((0.1, 0.1, 0.235))
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(interval))
    test = stats.ttest_rel(kls["ours"], kls["fixed"])
    assert fixed["difference"] == pytest.approx(-0.0625)
    assert (fixed["difference_low"], fixed["difference_high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert fixed["p_value"] == pytest.approx(test.pvalue)
    assert "difference" not in ours
