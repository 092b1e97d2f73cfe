"""`reference_candidates` in a run: categories come from the data, and the split into micro-batches changes nothing."""

import pytest

from dualselect.methods import DualSelect
from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

METHOD = DualSelect(task_warmup_steps=1, refresh="steps", refresh_every=1, reference_top_k=2, reference_candidates=6)


def test_candidates_are_the_same_however_a_step_is_split(make_trainer, samples, tmp_path):
    references = samples(10, 2, "reference").add_column("category", ["a", "b"] * 5)
    logs = []
    for size, split in ((8, 1), (2, 4)):
        trainer = make_trainer(
            METHOD,
            reference_dataset=references,
            output_dir=tmp_path / f"run-{size}",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=split,
            max_steps=4,
        )
        assert trainer.run.pool().categories.tolist() == [0, 1] * 5
        trainer.train()
        logs.append(SelectionLog.read(trainer.run_folder)[1].select(["step", "id", "kept"]).to_pylist())
    assert logs[0] == logs[1]
    by_step = [{row["id"]: row["kept"] for row in logs[0] if row["step"] == step} for step in (1, 2, 3)]
    assert [len(rows) for rows in by_step] == [6, 6, 6]
    kept = [{name for name, is_kept in rows.items() if is_kept} for rows in by_step]
    assert all(len(names) == 2 for names in kept)
    assert kept[0] <= set(by_step[1])
    assert kept[1] <= set(by_step[2])
