"""The data of a run: the task, the pools and the evaluation sets, kept apart, with stable ids, tokenised alike."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers.utils import logging

from dualselect.data import (
    INDEX_COLUMN,
    REFERENCES,
    TASK,
    IndexCollator,
    dropped_ids,
    evaluation_role,
    identify,
    keep_apart,
    refuse_undesired,
)
from dualselect.data.columns import Ids, category_numbers, integers, list_lengths
from dualselect.distributed import is_sharded, rank
from dualselect.errors import ConfigError, DataError
from dualselect.gradients import Parameters, Watch
from dualselect.models.generation import complete, encode_prompt
from dualselect.models.thoughts import Answer
from dualselect.selection import Pool
from dualselect.training import _trl
from dualselect.training.config import DualSelectConfig
from dualselect.training.prompt_only import answered

_logger = logging.get_logger(__name__)

Evaluation: TypeAlias = "Dataset | dict[str, Dataset] | None"


class TrainingData:
    """The raw data of a run, by role.

    Args:
        task: Data set that the run trains on.
        pools: Other data sets that methods use, by name; `references` is one.
        evaluation: Evaluation set, or several by name.
        policy: Treatment of prompts that appear in two sets; see `prompt_overlap`.
        is_formatted: Whether a formatting function reads the columns, so that only it knows their meaning.

    Raises:
        ConfigError: The task is missing, or a data set is streamed.
        DataError: A set is empty, has two samples with one id, or sets share prompts.
    """

    def __init__(
        self,
        task: Dataset | None,
        pools: Mapping[str, Dataset],
        evaluation: Evaluation,
        policy: str,
        *,
        is_formatted: bool = False,
    ) -> None:
        if not isinstance(task, Dataset):
            raise ConfigError("train_dataset must be a datasets.Dataset, or an IterableDataset with max_steps set")
        for name, dataset in {**pools, **_evaluation_sets(evaluation)}.items():
            if isinstance(dataset, IterableDataset):
                raise ConfigError(
                    f"the data set '{name}' is streamed, as only the task can be: give a datasets.Dataset"
                )
        for name, dataset in {TASK: task, **pools}.items():
            if len(dataset) == 0:
                raise DataError(f"the data set '{name}' is empty: give at least one sample")
            if not is_formatted:
                refuse_undesired(dataset, name)
        self._evaluation = evaluation
        self.raw = keep_apart({TASK: task, **pools, **_evaluation_sets(evaluation)}, policy)
        self.pool_names = tuple(pools)
        self.task, self.task_ids = identify(self.raw[TASK], TASK)

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation sets, in the form in which they were given."""
        if isinstance(self._evaluation, dict):
            return {name: self.raw[evaluation_role(name)] for name in self._evaluation}
        return self.raw.get("evaluation")

    def ids(self) -> dict[str, Sequence[str]]:
        """Return the ids of the task and of every pool, by role."""
        return {TASK: self.task_ids, **{name: identify(self.raw[name], name)[1] for name in self.pool_names}}


def make_pools(trainer: Any, data: TrainingData, watch: Watch, params: Parameters) -> dict[str, Pool]:
    """Return the pools that the trainer's method needs, tokenised by the same code as the task.

    Args:
        trainer: `SFTTrainer` with its collator.
        data: Data of the run.
        watch: Watch of the model's per-sample gradients.
        params: Trainable parameters.

    Raises:
        DataError: No sample of a pool has a supervised token within max_length.
    """
    return {name: make_pool(trainer, name, data.raw[name], watch, params) for name in trainer.method.pools}


def make_pool(trainer: Any, name: str, dataset: Dataset, watch: Watch, params: Parameters) -> Pool:
    """Return the pool of that name over raw samples; arguments as for `make_pools`."""
    args = trainer.args
    indexed, ids = identify(dataset, name)
    if name == REFERENCES:
        indexed, ids = _with_answers(trainer, indexed, ids)
    prepared = _trl.prepare_dataset(trainer, indexed, name)
    report_dropped(name, ids, prepared, args)
    numbers = category_numbers(indexed)
    categories = None if numbers is None else torch.from_numpy(numbers[integers(prepared, INDEX_COLUMN)])
    return pool_of_prepared(trainer, name, prepared, ids, watch, params, categories)


def pool_of_prepared(
    trainer: Any,
    name: str,
    prepared: Dataset,
    ids: Ids,
    watch: Watch,
    params: Parameters,
    categories: Tensor | None = None,
) -> Pool:
    """Return a pool over tokenised samples.

    Args:
        trainer: An `SFTTrainer` with its collator.
        name: Name of the pool.
        prepared: Samples with `input_ids`, `labels` and the index column.
        ids: The id at each index.
        watch: The model's per-sample gradients.
        params: The trainable parameters.
        categories: Number of each tokenised sample's category, `(N,)` int64, if any.
    """
    args = trainer.args
    return Pool(
        examples=prepared.select_columns(["input_ids", "labels"]),  # stays in Arrow: small whatever the pool
        ids=ids.take(integers(prepared, INDEX_COLUMN)),
        watch=watch,
        model=trainer.model,
        params=params,
        collate=collate_of(trainer),
        tokens_per_batch=args.scan_tokens or _largest_batch(trainer),
        autocast=lambda: _forward_context(trainer),
        progress=not args.disable_tqdm and rank() == 0,
        folder=Path(args.output_dir) / f"scan-{name}",
        categories=categories,
    )


@contextmanager
def _forward_context(trainer: Any) -> Iterator[None]:
    """Return a context in which a pass over a pool needs no more memory than a training step."""
    with trainer.accelerator.autocast(), _trl.offloading(trainer):
        yield


def collate_of(trainer: Any) -> Any:
    """Return the function that makes a batch of tokenised samples without an index."""
    collator = trainer.data_collator
    return collator.collate if isinstance(collator, IndexCollator) else collator


def _largest_batch(trainer: Any) -> int:
    """Return the padded tokens of the largest batch that training can meet."""
    args = trainer.args
    longest = args.max_length if args.packs_whole_samples else list_lengths(trainer.train_dataset, "input_ids").max()
    return int(args.per_device_train_batch_size * longest)


def _with_answers(trainer: Any, dataset: Dataset, ids: Ids) -> tuple[Dataset, Ids]:
    """Return the references with an answer each, the starting model's own where there is none, and their ids."""
    args = trainer.args

    def generate(prompts: list[Any]) -> list[Answer]:
        return complete(
            trainer.model,
            trainer.processing_class,
            [encode_prompt(trainer.processing_class, prompt) for prompt in prompts],
            max_new_tokens=args.reference_answer_tokens,
            batch_size=args.per_device_eval_batch_size,
            temperature=0.0,
            top_p=1.0,
            seed=0,
            description="Answering references",
            show_progress=not args.disable_tqdm and rank() == 0,
        )

    recipe = f"{args.reference_answer_tokens} tokens of {getattr(trainer.model.config, '_name_or_path', '')}"
    whole = answered(dataset, Path(args.output_dir), recipe, generate, together=is_sharded(trainer.model))
    if whole is dataset:
        return dataset, ids
    left = ids.take(integers(whole, INDEX_COLUMN))
    return whole.remove_columns(INDEX_COLUMN).add_column(INDEX_COLUMN, np.arange(len(left))), left


def report_dropped(role: str, ids: Sequence[str], prepared: Dataset, args: DualSelectConfig) -> None:
    """Warn of the samples without a supervised token; a DataError if no other is left."""
    dropped = dropped_ids(ids, prepared)
    if len(dropped) == len(ids):
        raise DataError(
            f"no {role} sample has a supervised token within max_length={args.max_length}: raise max_length"
        )
    if dropped:
        named = ", ".join(dropped[:5]) + (", ..." if len(dropped) > 5 else "")
        _logger.warning(
            f"{len(dropped)} of {len(ids)} {role} samples have no supervised token within "
            f"max_length={args.max_length} and are skipped: {named}"
        )


def _evaluation_sets(evaluation: Evaluation) -> dict[str, Dataset]:
    if isinstance(evaluation, dict):
        return {evaluation_role(name): dataset for name, dataset in evaluation.items()}
    return {} if evaluation is None else {"evaluation": evaluation}
