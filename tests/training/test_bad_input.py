"""Bad data and settings: one clear line, and a single bad sample never ends a run."""

import pytest
import torch
from datasets import Dataset, concatenate_datasets

from dualselect.errors import ConfigError, DataError
from dualselect.methods import SFT, DualSelect
from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow


def chat(prompt, completion, name="x"):
    return {
        "id": name,
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference_dataset": None}, "dualselect.*reference_dataset"),
        ({"method": "dualselct"}, "did you mean 'dualselect'"),
        ({"method_options": {"roh": 1}}, "no option 'roh'; did you mean 'rho'"),
        ({"packing": True, "packing_strategy": "wrapped"}, "packing_strategy='wrapped'.*'bfd'"),
        ({"loss_type": "dft"}, "loss_type"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha"),
        ({"loss_average": "tokens"}, "did you mean 'token'"),
        ({"scan_tokens": 0}, "scan_tokens"),
        ({"window_memory": -1.0}, "window_memory"),
    ],
)
def test_settings_that_cannot_work_are_refused(make_trainer, changes, message):
    method = changes.pop("method", None)
    with pytest.raises(ConfigError, match=message):
        make_trainer(method, **changes)


def test_a_pool_smaller_than_k_is_refused_before_training(make_trainer):
    trainer = make_trainer(DualSelect(reference_top_k=11))
    with pytest.raises(ConfigError, match=r"reference_top_k is 11.*10 references"):
        trainer.train()
    assert not any(trainer.run_folder.iterdir())


@pytest.mark.parametrize("role", ["train_dataset", "reference_dataset"])
def test_an_empty_data_set_is_refused(make_trainer, samples, role):
    with pytest.raises(DataError, match="empty"):
        make_trainer(**{role: samples(40, 1).select([])})


def test_prompts_shared_by_two_sets_are_refused_dropped_or_ignored(make_trainer, samples):
    task, shared, safe, probe = samples(8, 1), samples(2, 1, "again"), samples(8, 2, "safe"), samples(4, 3, "probe")
    data = {
        "train_dataset": task,
        "reference_dataset": concatenate_datasets([shared, safe]),
        "eval_dataset": {"probe": concatenate_datasets([safe.select([0]), probe])},
    }
    with pytest.raises(DataError, match=r"task and references share 2 prompts, the first: task 's0'.*'again0'"):
        make_trainer(**data)
    dropped = make_trainer(**data, prompt_overlap="drop")
    assert dropped.run.pool().ids == safe["id"][:]
    assert len(dropped.train_dataset) == 8
    assert len(dropped.eval_dataset["probe"]) == 4
    with pytest.raises(DataError, match="references and evaluation probe share 1 prompt, "):
        make_trainer(**data, prompt_overlap="ignore")
    ignored = make_trainer(**data | {"eval_dataset": probe}, prompt_overlap="ignore")
    assert len(ignored.run.pool()) == 10


def test_samples_without_a_supervised_token_are_skipped_and_named(make_trainer, samples, caplog):
    long = samples(1, 9).map(lambda row: chat("many " * 200, "seven", "endless"))
    trainer = make_trainer(
        train_dataset=concatenate_datasets([samples(8, 1), long]),
        reference_dataset=concatenate_datasets([long, samples(8, 2)]),
        max_length=64,
        prompt_overlap="ignore",
    )
    assert len(trainer.train_dataset) == 8
    assert len(trainer.run.pool()) == 8
    assert trainer.run.pool().ids[0] == "s0"
    with pytest.raises(DataError, match="max_length=8"):
        make_trainer(max_length=8)


@pytest.mark.parametrize("average", ["sample", "token"])
@pytest.mark.parametrize("name", ["dualselect", "sft"])
def test_a_sample_with_a_loss_that_is_not_finite_is_dropped_not_the_run(
    make_trainer, samples, make_tiny_model, tiny_tokenizer, trained_weights, name, average
):
    """A token whose embedding is NaN spoils all losses of its own sample, and of no other."""
    model = make_tiny_model()
    poisoned = tiny_tokenizer("~")["input_ids"][0]
    with torch.no_grad():
        model.model.embed_tokens.weight[poisoned] = torch.nan
    # As an input, not as a target: the head is apart.
    task = samples(16, 1).map(lambda row: chat("red~" if row["id"] == "s3" else "red blue", "green", row["id"]))
    method = DualSelect(task_warmup_steps=1) if name == "dualselect" else SFT()
    trainer = make_trainer(
        method, model=model, train_dataset=task, max_steps=4, loss_average=average, gradient_accumulation_steps=1
    )
    trainer.train()
    assert trainer.state.global_step == 4
    assert torch.isfinite(trained_weights(trainer)).all()
    dropped = [
        event["dualselect/dropped_samples"]
        for event in trainer.state.log_history
        if "dualselect/dropped_samples" in event
    ]
    assert sum(dropped) == 1
    if name == "dualselect":
        rows = SelectionLog.read(trainer.run_folder)[0].to_pylist()
        assert [row["id"] for row in rows if row["dropped_reason"]] == ["s3"]
        assert {row["dropped_reason"] for row in rows} == {None, "non-finite"}
        assert all(event["loss"] > 0 for event in trainer.state.log_history if "loss" in event)


@pytest.mark.parametrize("average", ["sample", "token"])
@pytest.mark.parametrize("name", ["dualselect", "sft"])
def test_a_step_without_a_usable_sample_logs_no_loss(
    make_trainer, samples, make_tiny_model, tiny_tokenizer, name, average
):
    model = make_tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[tiny_tokenizer("~")["input_ids"][0]] = torch.nan
    task = samples(6, 1).map(lambda row: chat("red~" if row["id"] == "s3" else "red blue", "green", row["id"]))
    method = DualSelect(task_warmup_steps=1) if name == "dualselect" else SFT()
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "logging_steps": 1, "max_steps": 6}
    trainer = make_trainer(method, model=model, train_dataset=task, loss_average=average, **options)
    trainer.train()
    steps = [event for event in trainer.state.log_history if "learning_rate" in event]
    assert len(steps) == 6
    assert [event.get("loss", 0.0) > 0 for event in steps].count(
        False
    ) == 1  # 6 steps of one sample, one of them spoilt
    assert all(event["loss"] > 0 for event in steps if "loss" in event)


def test_references_that_are_not_finite_are_never_chosen(
    make_trainer, samples, make_tiny_model, tiny_tokenizer, trained_weights
):
    model = make_tiny_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[tiny_tokenizer("~")["input_ids"][0]] = torch.nan
    pool = samples(10, 2).map(lambda row: chat("red~" if row["id"] == "s3" else "red blue", "green", row["id"]))
    trainer = make_trainer(
        DualSelect(task_warmup_steps=1, reference_fraction=1.0), model=model, reference_dataset=pool, max_steps=3
    )
    trainer.train()
    assert torch.isfinite(trained_weights(trainer)).all()
    rows = SelectionLog.read(trainer.run_folder)[1].to_pylist()
    assert [row["id"] for row in rows if not row["kept"]] == ["s3"]


def test_a_refresh_without_a_gradient_says_so_and_continues(make_trainer, caplog, monkeypatch):
    said = []
    trainer = make_trainer(DualSelect(task_warmup_steps=0, preservation_loss="kl"), max_steps=3)
    monkeypatch.setattr(trainer.run, "say", said.append)
    trainer.train()
    assert "the references have no gradient" in said[0]
    assert trainer.method.g_ref is not None  # once the weights have moved there is one


@pytest.mark.parametrize("content", [None, [{"type": "text", "text": "yes"}]], ids=["none", "in parts"])
def test_content_that_the_template_cannot_write_is_named(make_trainer, content):
    with pytest.raises(DataError, match=r"task: .*template refuses sample 'bad'"):
        make_trainer(train_dataset=Dataset.from_list([chat("red", content, "bad")]))
