"""Every private name of TRL and transformers that we use, one function each: the places that a release can break.

Checked against trl 1.16 and transformers 5.24.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from datasets import Dataset


@contextmanager
def old_names() -> Iterator[None]:
    """Return a context without warnings that gradient checkpointing is renamed: TRL and PEFT use its old name too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
        yield


def prepare_dataset(trainer: Any, dataset: Dataset, name: str) -> Dataset:
    """Return a data set tokenised as `SFTTrainer` tokenises the task, with `input_ids` and `labels`."""
    # Whether only completions count is a property of each data set; TRL has settled it for the task.
    for_task = trainer.completion_only_loss
    if trainer.args.completion_only_loss is None:
        trainer.completion_only_loss = "prompt" in dataset.column_names and "completion" in dataset.column_names
    try:
        prepared: Dataset = trainer._prepare_dataset(
            dataset, trainer.processing_class, trainer.args, False, trainer._formatting_func, name
        )
        return prepared
    finally:
        trainer.completion_only_loss = for_task


def keep_columns(trainer: Any, names: Sequence[str]) -> None:
    """Let further columns of the task reach the collator."""
    missing = [name for name in names if name not in trainer._signature_columns]
    trainer._signature_columns = [*trainer._signature_columns, *missing]


def train_metrics(trainer: Any) -> dict[str, list[float]]:
    """Return the lists whose means go into the next log event, by name."""
    metrics: dict[str, list[float]] = trainer._metrics["train"]
    return metrics


def trained_tokens(trainer: Any) -> int:
    """Return how many tokens the run has seen."""
    return int(trainer._total_train_tokens)


def set_trained_tokens(trainer: Any, tokens: int) -> None:
    """Set how many tokens the run has seen."""
    trainer._total_train_tokens = tokens


def offloading(trainer: Any) -> AbstractContextManager[Any]:
    """Return the context in which a training step offloads activations, if that is on."""
    context: AbstractContextManager[Any] = trainer.maybe_activation_offload_context
    return context


def save_as_whole(trainer: Any) -> None:
    """Let a trainer whose model is sharded save and load what it trains as that of an unsharded model."""
    # All that transformers does differently under FSDP is to gather what is trained, and that is not sharded here.
    trainer.is_fsdp_enabled = False


def count_as_prepared(trainer: Any) -> None:
    """Let a trainer evaluate a sharded model before training, for which accelerate would want an optimizer."""
    trainer.accelerator._models.append(trainer.model)


def has_router_loss(trainer: Any) -> bool:
    """Return whether the model adds a load-balancing loss of its router to the task's."""
    return bool(trainer.aux_loss_enabled)


def count_items(trainer: Any, batches: list[Any]) -> torch.Tensor | int | None:
    """Return how many supervised tokens the micro-batches of an optimizer step contain, over all processes."""
    count: torch.Tensor | int | None = trainer._get_num_items_in_batch(batches, trainer.args.device)
    return count


def output_folder(trainer: Any, trial: Any) -> str:
    """Return where checkpoints go."""
    return str(trainer._get_output_dir(trial))


def batch_size(trainer: Any) -> int:
    """Return the samples of a micro-batch, which `auto_find_batch_size` may have lowered."""
    return int(trainer._train_batch_size)
