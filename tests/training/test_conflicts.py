"""Conflicts of single samples with single references, against one backward pass each."""

import pytest
import torch

from dualselect.data import INDEX_COLUMN
from dualselect.gradients import Direction
from dualselect.runs.dropped import most_dropped
from dualselect.runs.selection_log import SelectionLog
from dualselect.training import conflicts, record_conflicts

pytestmark = pytest.mark.slow

OPTIONS = {"task_warmup_steps": 2, "refresh": "steps", "refresh_every": 3, "task_token_fraction": 0.6,
           "reference_top_k": 4}  # fmt: skip


def gradient(trainer, row):
    """Return the gradient of a row's mean NLL by autograd alone."""
    batch = trainer.data_collator.collate([{"input_ids": row["input_ids"], "labels": row["labels"]}])
    trainer.model.eval()
    trainer.model.zero_grad()
    torch.nn.functional.cross_entropy(
        trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0, :-1].float(),
        batch["labels"][0, 1:],
    ).backward()
    found = Direction.from_grads(trainer.run.params)
    trainer.model.zero_grad()
    return found


@pytest.fixture
def trained(make_trainer, lora):
    trainer = make_trainer("dualselect", method_options=OPTIONS, peft_config=lora(lora_dropout=0.2))
    trainer.train()
    return trainer


def test_cosines_equal_single_backward_passes(trained):
    record_conflicts(trained, limit=5)
    tasks, references = SelectionLog.read(trained.run_folder)
    rows = SelectionLog.read_conflicts(trained.run_folder).to_pylist()
    refreshed = max(references["step"].to_pylist())
    chosen = [row["id"] for row in references.to_pylist() if row["step"] == refreshed and row["kept"]]
    dropped = [sample.id for sample in most_dropped(tasks, references, 5)]
    assert [(row["id"], row["reference"]) for row in rows] == [(one, other) for one in dropped for other in chosen]
    assert {row["step"] for row in rows} == {trained.state.global_step}
    samples = {trained.data.task_ids[row[INDEX_COLUMN]]: row for row in trained.train_dataset}
    pool = dict(zip(trained.run.pool().ids, trained.run.pool().examples, strict=True))
    for row in rows:
        expected = gradient(trained, samples[row["id"]]).cosine(gradient(trained, pool[row["reference"]]))
        assert row["cosine"] == pytest.approx(expected.item(), abs=1e-4)


def test_measuring_changes_neither_weights_nor_modes_nor_the_rest_of_the_log(trained, trained_weights):
    before, log = trained_weights(trained), SelectionLog.read(trained.run_folder)
    modes = [module.training for module in trained.model.modules()]
    record_conflicts(trained)
    assert torch.equal(trained_weights(trained), before)
    assert [module.training for module in trained.model.modules()] == modes
    assert SelectionLog.read(trained.run_folder) == log


def test_samples_are_fewer_where_their_gradients_would_not_fit(trained, monkeypatch):
    size = 4 * sum(param.numel() for param in trained.run.params.values())
    for room, count in ((2 * size + 1, 2), (1, 1)):
        monkeypatch.setattr(conflicts, "_ROOM", room)
        record_conflicts(trained)
        assert len(set(SelectionLog.read_conflicts(trained.run_folder)["id"].to_pylist())) == count


@pytest.mark.parametrize("method", ["sft", "random"])
def test_a_run_without_chosen_references_has_no_conflicts(make_trainer, method):
    trainer = make_trainer(method)
    trainer.train()
    record_conflicts(trainer)
    assert SelectionLog.read_conflicts(trainer.run_folder).num_rows == 0


def test_continuing_from_a_checkpoint_forgets_conflicts_of_later_weights(trained):
    record_conflicts(trained)
    trained.record.log_file.truncate(trained.state.global_step + 1)
    assert SelectionLog.read_conflicts(trained.run_folder).num_rows > 0
    trained.record.log_file.truncate(trained.state.global_step)
    assert SelectionLog.read_conflicts(trained.run_folder).num_rows == 0
