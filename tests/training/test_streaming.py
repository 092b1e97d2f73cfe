"""A streamed task is read as far as the steps train on it, and from there on is a task like any other."""

import pytest
import torch

from dualselect.errors import ConfigError, DataError
from dualselect.methods import DualSelect
from dualselect.runs.selection_log import SelectionLog

STEPS = {"max_steps": 4, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}  # 16 samples
SELECTING = {"task_warmup_steps": 1, "refresh": "steps"}


def test_a_streamed_run_is_one_on_the_first_samples(make_trainer, trained_weights, samples, tmp_path):
    task = samples(40, 1, "task")
    streamed = make_trainer(
        DualSelect(**SELECTING),
        train_dataset=task.to_iterable_dataset(),
        output_dir=tmp_path / "streamed",
        save_strategy="steps",
        save_steps=2,
        **STEPS,
    )
    whole = make_trainer(
        DualSelect(**SELECTING), train_dataset=task.select(range(16)), output_dir=tmp_path / "whole", **STEPS
    )
    streamed.train()
    whole.train()
    assert torch.equal(trained_weights(streamed), trained_weights(whole))
    seen = SelectionLog.read(streamed.run_folder)[0]["id"].to_pylist()
    assert sorted(seen) == sorted(task["id"][:16])
    resumed = make_trainer(
        DualSelect(**SELECTING), train_dataset=task.to_iterable_dataset(), output_dir=tmp_path / "resumed", **STEPS
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "streamed" / "checkpoint-2"))
    assert torch.equal(trained_weights(resumed), trained_weights(streamed))


def test_prompts_of_a_streamed_task_are_kept_apart_from_the_references(make_trainer, samples):
    task = samples(40, 1, "task")
    with pytest.raises(DataError, match="references"):
        make_trainer(train_dataset=task.to_iterable_dataset(), reference_dataset=task.select([15]), **STEPS)
    make_trainer(train_dataset=task.to_iterable_dataset(), reference_dataset=task.select([16]), **STEPS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "needs max_steps"),
        ({"packing": True, "max_length": 160}, "packing=False"),
        ({"reference_dataset": None}, "'references' is streamed"),
        ({"eval_dataset": None}, "'evaluation' is streamed"),
    ],
    ids=["steps", "packing", "references", "evaluation"],
)
def test_what_a_stream_does_not_go_with_is_refused(make_trainer, samples, changes, message):
    stream = samples(20, 5, "other").to_iterable_dataset()
    changes = {name: stream if value is None else value for name, value in changes.items()}
    with pytest.raises(ConfigError, match=message):
        make_trainer(**{"train_dataset": samples(40, 1).to_iterable_dataset()} | STEPS | changes)
