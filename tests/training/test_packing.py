"""Packed rows of whole samples: the rows are TRL's, the samples in them remain samples."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import BloomConfig, BloomForCausalLM
from trl import SFTConfig, SFTTrainer, pack_dataset

from dualselect.data import INDEX_COLUMN
from dualselect.errors import ConfigError, DataError, UnsupportedModuleError
from dualselect.gradients import sequence_lengths
from dualselect.methods import SFT, DualSelect, Method, Random
from dualselect.methods.lisa import Lisa
from dualselect.runs.selection_log import SelectionLog
from dualselect.training import record_conflicts
from dualselect.training.packing import PackedRows, members_of_rows

ROOM = 160  # tokens in a row, of samples of some 30 to 90
PACKED = {"packing": True, "max_length": ROOM}
SELECTING = {"task_warmup_steps": 1, "refresh": "steps", "refresh_every": 2, "task_token_fraction": 0.6}
CLOSE = {"rtol": 0, "atol": 1e-5}


# Rows


@pytest.mark.parametrize("count", [1, 7, 2500])
def test_rows_are_trl_s_token_for_token(count):
    lengths = np.random.default_rng(0).integers(1, 61, count)
    tokens = [[number] * length for number, length in enumerate(lengths.tolist())]
    expected = pack_dataset(Dataset.from_dict({"input_ids": tokens}), 64, "bfd")["input_ids"]
    rows = members_of_rows(lengths, 64)
    assert [np.repeat(row, lengths[row]).tolist() for row in rows] == list(expected)


def test_a_sample_that_no_row_can_contain_is_refused():
    samples = Dataset.from_dict({"input_ids": [[1] * 5], "labels": [[1] * 5], INDEX_COLUMN: [0]})
    with pytest.raises(DataError, match="5 tokens does not fit into a row of max_length=4"):
        PackedRows(samples, 4)


def test_a_batch_counts_samples_not_rows(make_trainer):
    trainer = make_trainer(Random(), **PACKED, per_device_train_batch_size=3)
    trainer.train()
    rows = [trainer.train_dataset[row] for row in range(3)]
    samples = [sample for row in rows for sample in row]
    batch = trainer.data_collator(rows)
    assert len(samples) > 3
    assert batch["input_ids"].shape == (1, sum(len(sample["input_ids"]) for sample in samples))
    assert batch[INDEX_COLUMN].tolist() == [sample[INDEX_COLUMN] for sample in samples]
    assert sequence_lengths(batch) == [len(sample["input_ids"]) for sample in samples]


# Runs


@pytest.fixture
def pairs(samples, tiny_tokenizer):
    """Samples of more than a third and at most half of a row: any two fit into one, and no three."""

    def fits(sample):
        text = tiny_tokenizer.apply_chat_template(sample["prompt"] + sample["completion"], tokenize=False)
        return ROOM / 3 < len(tiny_tokenizer(text)["input_ids"]) <= ROOM / 2

    found = samples(200, 5, "pair").filter(fits)
    return found.select(range(40))


METHODS = [
    pytest.param(DualSelect(**SELECTING), {}, id="dualselect"),
    pytest.param(DualSelect(**SELECTING), {"window_memory": 0.0}, id="two passes"),
    pytest.param(DualSelect(**SELECTING, selection="soft"), {"loss_average": "token"}, id="soft, token"),
    pytest.param(SFT(), {}, id="sft"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "changes"), METHODS)
@pytest.mark.parametrize(("size", "accumulation"), [(4, 1), (1, 4)], ids=["padded", "one at a time"])
def test_a_packed_run_equals_an_unpacked_one_with_the_same_steps(
    make_trainer, trained_weights, pairs, tmp_path, method, changes, size, accumulation
):
    given = changes | {"train_sampling_strategy": "sequential", "max_steps": 6, "train_dataset": pairs}
    packed = make_trainer(
        method,
        **given,
        **PACKED,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        output_dir=tmp_path / "packed",
    )
    packed.train()
    rows = [[sample[INDEX_COLUMN] for sample in row] for row in packed.train_dataset]
    assert {len(row) for row in rows} == {2}
    given["train_dataset"] = pairs.select([number for row in rows for number in row])
    plain = make_trainer(
        method,
        **given,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        output_dir=tmp_path / "plain",
    )
    plain.train()
    torch.testing.assert_close(trained_weights(packed), trained_weights(plain), **CLOSE)
    for ours, theirs in zip(*(SelectionLog.read(trainer.run_folder) for trainer in (packed, plain)), strict=True):
        ours, theirs = (table.sort_by([("step", "ascending"), ("id", "ascending")]) for table in (ours, theirs))
        for column in ("step", "id", "kept"):
            assert ours[column] == theirs[column]
        assert method.name == "sft" or method.selection == "soft" or not all(ours["kept"].to_pylist())
        for column in ("loss", "cosine", "weight"):
            values, expected = (table[column].to_pylist() for table in (ours, theirs))
            known = [place for place, value in enumerate(expected) if value is not None]
            assert [values[place] for place in known] == pytest.approx([expected[place] for place in known], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [DualSelect(rho=0.0, task_token_fraction=1.0, task_warmup_steps=2), Random(task_token_fraction=1.0)],
    ids=lambda method: method.name,
)
def test_selecting_all_is_trl_s_packing(
    make_trainer, make_tiny_model, tiny_tokenizer, settings, samples, trained_weights, lora, method
):
    ours = make_trainer(method, **PACKED, loss_average="token")
    ours.train()
    theirs = SFTTrainer(
        model=make_tiny_model(),
        args=settings(SFTConfig, **PACKED),
        train_dataset=samples(40, 1, "task").remove_columns("id"),
        processing_class=tiny_tokenizer,
        peft_config=lora(),
    )
    theirs.train()
    torch.testing.assert_close(trained_weights(ours), trained_weights(theirs), **CLOSE)
    losses = [[event["loss"] for event in run.state.log_history if "loss" in event] for run in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_packed_run_resumes_bit_for_bit(make_trainer, trained_weights, tmp_path):
    given = PACKED | {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "per_device_train_batch_size": 2}
    unbroken = make_trainer(DualSelect(**SELECTING), output_dir=tmp_path / "unbroken", **given)
    unbroken.train()
    folder = str(tmp_path / "unbroken" / "checkpoint-2")
    resumed = make_trainer(DualSelect(**SELECTING), output_dir=tmp_path / "resumed", **given)
    resumed.train(resume_from_checkpoint=folder)
    assert torch.equal(trained_weights(resumed), trained_weights(unbroken))


@pytest.mark.slow
def test_a_method_prepares_and_names_samples(make_trainer):
    class Weighing(Method):
        """Keeps 30 samples and weighs their tokens."""

        name = "weighing"

        def prepare(self, task, run):
            assert len(run.pool_of(task)) == 40
            kept = task.select(range(30))
            return kept.map(lambda row: {"token_weights": [float(place % 3) for place in range(len(row["labels"]))]})

    plain, packed = (make_trainer(Weighing(), max_steps=2, **changes) for changes in ({}, PACKED))
    packed.train()
    assert sorted(sample[INDEX_COLUMN] for row in packed.train_dataset for sample in row) == list(range(30))
    row = next(row for row in packed.train_dataset if len(row) > 1)
    losses = []
    for trainer, batch in ((packed, [row]), (plain, row)):
        inputs = trainer._prepare_inputs(trainer.data_collator(batch))
        losses.append(packed.method.losses({k: v for k, v in inputs.items() if k != INDEX_COLUMN}, packed.run).loss)
    torch.testing.assert_close(*losses) if row[0].get("token_weights") else pytest.fail("no token weights")


@pytest.mark.slow
def test_batches_of_a_pool_have_as_many_samples_as_rows_have(make_trainer):
    trainer = make_trainer(
        Lisa(alignment_steps=1, finetune_steps=1), **PACKED, per_device_train_batch_size=1, max_steps=4
    )
    trainer.train()
    per_row = round(40 / len(trainer.train_dataset))
    assert per_row > 1
    assert [len(batch[INDEX_COLUMN]) for batch in trainer._pool_batches("references", 2)] == [per_row] * 2


@pytest.mark.slow
def test_conflicts_are_measured_sample_by_sample(make_trainer):
    trainer = make_trainer(DualSelect(**SELECTING), **PACKED)
    trainer.train()
    record_conflicts(trainer, limit=3)
    assert len(set(SelectionLog.read_conflicts(trainer.run_folder)["id"].to_pylist())) == 3


# What does not go


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packing_strategy": "wrapped"}, "packing_strategy='wrapped'.*'bfd'"),
        ({"packing_strategy": "bfd_split"}, "packing_strategy='bfd_split'.*'bfd'"),
        ({"max_length": None}, "packing=True needs max_length"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length.*'random'"),
        ({"pad_to_multiple_of": 8}, "pad_to_multiple_of=8.*packing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_does_not_go_with_packing_is_refused(make_trainer, changes, message):
    with pytest.raises(ConfigError, match=message):
        make_trainer(DualSelect(), **PACKED | changes)


def test_a_task_that_was_packed_before_is_refused(make_trainer):
    rows = {"input_ids": [[5, 6, 7, 8]], "labels": [[5, 6, 7, 8]], "seq_lengths": [[2, 2]]}
    with pytest.raises(DataError, match=r"packed already.*one by one"):
        make_trainer(Random(), train_dataset=Dataset.from_dict(rows), padding_free=True, max_length=None)


@pytest.mark.slow
def test_a_model_that_lets_the_samples_of_a_row_interact_is_refused(make_trainer, tiny_tokenizer):
    """Bloom takes positions from a mask, which a joined row lacks."""
    torch.manual_seed(0)
    shape = {"vocab_size": len(tiny_tokenizer), "hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    model = BloomForCausalLM(BloomConfig(**shape, pad_token_id=0, eos_token_id=1, bos_token_id=None))
    lora = LoraConfig(r=4, target_modules=["query_key_value"])
    trainer = make_trainer(Random(), **PACKED, model=model, peft_config=lora)
    with pytest.raises(UnsupportedModuleError, match="set packing and padding_free to False"):
        trainer.train()
