"""The memory of a stage: a uniform draw of a fixed size, or the samples that conflict most."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chi2, chisquare
from transformers import LlamaForCausalLM

from dualselect.continual.memory import (
    memory_of,
    most_conflicting,
    read_memory,
    reservoir,
    rows_of,
    sizes,
    trained_on,
)
from dualselect.continual.plan import Trial
from dualselect.continual.stage import stage_settings
from dualselect.continual.tasks import prepared

SEEDS = 3000


def rows(first, count):
    return [{"id": f"s{n}"} for n in range(first, first + count)]


def streamed(size, seed, *parts):
    """Return the memory after parts of a stream that came one after the other."""
    memory = []
    for part in parts:
        memory = reservoir([*memory, *part], size, seed)
    return memory


def test_every_sample_of_the_stream_is_equally_likely_to_be_kept():
    parts = rows(0, 6), rows(6, 10), rows(16, 4)
    counts = np.zeros(20)
    for seed in range(SEEDS):
        for row in streamed(5, seed, *parts):
            counts[int(row["id"][1:])] += 1
    # Inclusions of one seed have variance p (1 - p) and, since their sum is fixed, 20/19 of it in 19 dimensions.
    statistic = chisquare(counts, np.full(20, SEEDS * 5 / 20)).statistic / ((1 - 5 / 20) * 20 / 19)
    assert 0.001 < chi2.cdf(statistic, 19) < 0.999
    pairs = sum({"s0", "s19"} <= {row["id"] for row in streamed(5, seed, *parts)} for seed in range(SEEDS))
    assert pairs / SEEDS == pytest.approx(5 * 4 / (20 * 19), abs=0.015)  # as without replacement


def test_a_memory_does_not_depend_on_how_the_stream_is_cut():
    everything = rows(0, 20)
    for seed in range(20):
        assert streamed(5, seed, everything[:3], everything[3:11], everything[11:]) == reservoir(everything, 5, seed)


def test_a_memory_never_exceeds_its_size_and_keeps_what_fits():
    assert len(reservoir(rows(0, 20), 5, 0)) == 5
    assert reservoir(rows(0, 4), 5, 0) == rows(0, 4)
    assert reservoir(rows(0, 4), 0, 0) == []


def test_the_most_conflicting_are_kept_in_their_order():
    kept = most_conflicting(rows(0, 5), [0.1, 0.9, float("-inf"), 0.9, 0.5], 3)
    assert [row["id"] for row in kept] == ["s1", "s3", "s4"]


def gradient(model, tokenizer, row):
    """Return the gradient of one sample's mean loss over its answer tokens, as one vector."""
    whole = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], return_dict=True)["input_ids"]
    asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = torch.tensor([whole])
    labels = ids.clone()
    labels[:, : len(asked)] = -100
    params = [param for param in model.parameters() if param.requires_grad]
    loss = model(input_ids=ids, labels=labels).loss
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, params)])


def test_conflicts_are_those_of_single_backward_passes(make_plan, settings_of, tiny_model_dir, tiny_tokenizer):
    from dualselect.continual.conflict import conflicts_with_task

    plan = prepared(make_plan(settings_of()))
    first, second = Trial(plan, "sft", 3).stages
    candidates = rows_of(trained_on(stage_settings(first, {})), "task-1")
    found = conflicts_with_task(stage_settings(second, {}), candidates)

    torch.manual_seed(3)  # the trainer draws the fresh factors A after it has set the seed of the run
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    ).eval()
    task = [gradient(model, tiny_tokenizer, row) for row in trained_on(stage_settings(second, {}))]
    mean = torch.stack(task).mean(0)
    expected = [-float(torch.cosine_similarity(gradient(model, tiny_tokenizer, row), mean, 0)) for row in candidates]
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.1


def test_budgets_are_kept_in_every_stage(make_plan, settings_of, stream_data):
    plan = prepared(
        make_plan(settings_of("colour", "size", "sum", methods=["replay"], memory={"size": 9, "safety": 5}))
    )
    given = {task: (stream_data / f"{task}-train.jsonl").read_text() for task in ("colour", "size")}
    for stage in Trial(plan, "replay", 1).stages:
        files = memory_of(stage, "mark", lambda earlier: stage_settings(earlier, {}), conflicts=None)
        found = sizes(files)
        assert found.pop("safety") == 5
        assert sum(found.values()) == (0 if stage.number == 1 else 9)
        assert set(found) == ({"task-1", "task-2"} if stage.number == 3 else {"task-1"} if stage.number == 2 else set())
        for number, task in ((1, "colour"), (2, "size")):
            of_task = [row for row in read_memory(stage) if row["category"] == f"task-{number}"]
            assert all(row["prompt"][-1]["content"].split("\n\n")[0] in given[task] for row in of_task)


def test_a_memory_is_made_anew_where_settings_differ(make_plan, settings_of):
    plan = prepared(make_plan(settings_of(methods=["replay"])))
    stage = Trial(plan, "replay", 1).stages[1]
    for mark in ("first", "second"):
        files = memory_of(stage, mark, lambda earlier: stage_settings(earlier, {}), conflicts=None)
        assert sizes(files) == {"safety": 6, "task-1": 8}
        files["task-1"].write_text("")  # kept as it is under the same mark, made again under another
    assert sizes(memory_of(stage, "second", lambda earlier: stage_settings(earlier, {}), conflicts=None))["task-1"] == 0
