"""Each private name of TRL and transformers that we touch still does what we take it to do."""

import warnings
from collections import defaultdict
from contextlib import nullcontext

import pytest
import torch
from trl import SFTConfig, SFTTrainer

from dualselect import DualSelectConfig
from dualselect.training import _trl


@pytest.fixture
def trainer(make_tiny_model, tiny_tokenizer, settings, samples):
    return SFTTrainer(
        model=make_tiny_model(),
        args=settings(SFTConfig),
        train_dataset=samples(12, 1).remove_columns("id"),
        processing_class=tiny_tokenizer,
    )


def test_prepare_dataset_tokenises_a_pool_as_the_task(trainer, samples):
    again = _trl.prepare_dataset(trainer, samples(12, 1).remove_columns("id"), "pool")
    for column in ("input_ids", "labels"):
        assert again[column][:] == trainer.train_dataset[column][:]


def test_prepare_dataset_settles_for_each_set_whether_completions_count(trainer, samples):
    texts = samples(5, 3).map(lambda row: {"text": row["prompt"][0]["content"]}).select_columns("text")
    prepared = _trl.prepare_dataset(trainer, texts, "texts")
    assert prepared["labels"][:] == prepared["input_ids"][:]
    assert trainer.completion_only_loss is True


def test_keep_columns_lets_a_column_reach_the_collator(trainer):
    trainer._set_signature_columns_if_needed()
    _trl.keep_columns(trainer, ("number",))
    _trl.keep_columns(trainer, ("number",))
    assert trainer._signature_columns.count("number") == 1
    trainer.train_dataset = trainer.train_dataset.add_column("number", list(range(12)))
    seen = []
    collate, trainer.data_collator = trainer.data_collator, lambda rows: seen.extend(rows) or collate(rows)
    next(iter(trainer.get_train_dataloader()))
    assert {"input_ids", "labels", "number"} <= set(seen[0])


def test_train_metrics_are_averaged_into_the_next_log_event(trainer):
    assert isinstance(_trl.train_metrics(trainer), defaultdict)
    trainer.model.train()
    _trl.train_metrics(trainer)["mine"] += [1.0, 3.0]
    logs: dict[str, float] = {}
    trainer.log(logs)
    assert logs["mine"] == 2.0


def test_trained_tokens_are_what_trl_counts(trainer):
    _trl.set_trained_tokens(trainer, 7)
    assert _trl.trained_tokens(trainer) == 7
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model, dict(batch))
    assert _trl.trained_tokens(trainer) == 7 + int(batch["attention_mask"].sum())


def test_offloading_is_a_context(trainer):
    assert isinstance(_trl.offloading(trainer), nullcontext)
    with _trl.offloading(trainer):
        pass


def test_router_loss_is_off_for_a_dense_model(trainer):
    assert _trl.has_router_loss(trainer) is False


def test_count_items_counts_supervised_tokens(trainer):
    batches = list(trainer.get_train_dataloader())[:2]
    expected = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    assert int(torch.as_tensor(_trl.count_items(trainer, batches))) == expected


def test_output_folder_and_batch_size_are_the_arguments(trainer):
    assert _trl.output_folder(trainer, None) == trainer.args.output_dir
    assert _trl.batch_size(trainer) == trainer.args.per_device_train_batch_size


def test_what_nobody_set_is_not_warned_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert DualSelectConfig(output_dir=str(tmp_path)).gradient_checkpointing
