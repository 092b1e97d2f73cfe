"""Selection acts on the whole optimizer step, however it is split into micro-batches."""

import pytest
import torch

from dualselect.methods import DualSelect, Random
from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow

OPTIONS = {"task_warmup_steps": 1, "task_token_fraction": 0.6, "refresh": "steps", "refresh_every": 2}
METHODS = {
    "hard": DualSelect(**OPTIONS, rho=0.5),
    "soft": DualSelect(**OPTIONS, selection="soft", rho=0.5),
    "top k": DualSelect(**(OPTIONS | {"task_token_fraction": None}), task_top_k=5),
    "random": Random(task_token_fraction=0.6),
}


def decisions(trainer):
    table = SelectionLog.read(trainer.run_folder)[0]
    columns = (table[name].to_pylist() for name in ("step", "id", "kept", "weight"))
    return {(step, name): (kept, weight) for step, name, kept, weight in zip(*columns, strict=True)}


@pytest.mark.parametrize("name", METHODS)
def test_every_split_selects_and_trains_alike(make_trainer, trained_weights, tmp_path, name):
    runs = {}
    for size in (8, 4, 2, 1):
        trainer = make_trainer(
            METHODS[name],
            output_dir=tmp_path / str(size),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
        )
        trainer.train()
        runs[size] = decisions(trainer), trained_weights(trainer)
    whole, weights = runs.pop(8)
    dropped = sum(not kept for kept, _ in whole.values())
    assert dropped > 8 or name == "soft"
    for split, split_weights in runs.values():
        assert {key: kept for key, (kept, _) in split.items()} == {key: kept for key, (kept, _) in whole.items()}
        assert [w for _, w in split.values()] == pytest.approx([whole[key][1] for key in split], rel=1e-3, abs=1e-4)
        torch.testing.assert_close(split_weights, weights, rtol=0, atol=1e-4)


def test_the_token_share_is_kept_with_one_sample_a_micro_batch(make_trainer):
    trainer = make_trainer(
        Random(task_token_fraction=0.6),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=8,
        max_steps=15,
    )
    trainer.train()
    table = SelectionLog.read(trainer.run_folder)[0].to_pylist()
    share = sum(row["tokens"] for row in table if row["kept"]) / sum(row["tokens"] for row in table)
    assert share == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_what_does_not_fit_is_run_again_to_the_same_result(
    make_trainer, trained_weights, lora, tmp_path, caplog, dropout
):
    given = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    kept = make_trainer(METHODS["hard"], output_dir=tmp_path / "kept", peft_config=lora(lora_dropout=dropout), **given)
    kept.train()
    again = make_trainer(
        METHODS["hard"],
        output_dir=tmp_path / "again",
        peft_config=lora(lora_dropout=dropout),
        window_memory=0.0,
        **given,
    )
    with caplog.at_level("WARNING"):
        again.train()
    assert decisions(again).keys() == decisions(kept).keys()
    assert [kept for kept, _ in decisions(again).values()] == [kept for kept, _ in decisions(kept).values()]
    torch.testing.assert_close(trained_weights(again), trained_weights(kept), rtol=0, atol=1e-5)
