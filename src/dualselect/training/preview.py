"""How training would read a data set, found with the tokenizer alone."""

import copy
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Any

from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTTrainer

from dualselect.data import INDEX_COLUMN, TASK, find_duplicates, identify
from dualselect.gradients import IGNORED
from dualselect.training.config import DualSelectConfig
from dualselect.training.templates import template_errors


@dataclass(frozen=True)
class TokenCounts:
    """Token statistics of a data set: over its samples, the smallest, the median and the largest, and their sum."""

    smallest: int
    median: float
    largest: int
    total: int

    @classmethod
    def of(cls, counts: list[int]) -> "TokenCounts":
        """Return the statistics of at least one count."""
        return cls(min(counts), median(counts), max(counts), sum(counts))


@dataclass(frozen=True)
class Inspection:
    """A data set as training would see it.

    Attributes:
        samples: Number of samples with an answer; those without one are counted in `prompt_only`.
        prompt_only: Number of samples whose answer the starting model would give.
        dropped: Ids of the samples without a supervised token within `max_length`, which training skips.
        cut: Number of samples that fill `max_length`, whose ends are lost unless they fit exactly.
        tokens: Tokens per sample; None where no sample is left.
        supervised: Supervised tokens per sample; None where no sample is left.
        endless: Number of samples, of those that are not cut, whose supervised part does not end in a token that stops
            generation: a model that learns them runs on.
        duplicates: Ids of samples with the same prompt, a tuple for every prompt that occurs more than once.
        example: First usable sample as text, in parts, each with whether its tokens are supervised.
    """

    samples: int
    prompt_only: int
    dropped: list[str]
    cut: int
    endless: int
    tokens: TokenCounts | None
    supervised: TokenCounts | None
    duplicates: list[tuple[str, ...]]
    example: list[tuple[str, bool]]


def inspect(
    dataset: Dataset, args: DualSelectConfig, tokenizer: Any, ends: Collection[int] | None = None, name: str = TASK
) -> Inspection:
    """Return the data set as training under `args` would read it.

    Args:
        dataset: Samples with `prompt` and `completion`.
        args: Settings of the run.
        tokenizer: Tokenizer of the model.
        ends: Tokens that stop generation; None takes the tokenizer's end.
        name: Name of the data set in errors.

    Raises:
        ConfigError: The tokenizer has no chat template.
        DataError: Two samples have the same id, or the chat template refuses one.
    """
    ends = {tokenizer.eos_token_id} if ends is None else ends
    answered = dataset.filter(lambda completion: completion is not None, input_columns="completion")
    prepared, ids = prepared_as_in_training(answered, args, tokenizer, name) if len(answered) else (answered, [])
    kept = set(prepared[INDEX_COLUMN]) if ids else set()
    lengths = [len(row) for row in prepared["input_ids"]] if kept else []
    learned = [[label for label in row if label != IGNORED] for row in prepared["labels"]] if kept else []
    whole = [row for row, length in zip(learned, lengths, strict=True) if length != args.max_length]
    supervised = [len(row) for row in learned]
    return Inspection(
        samples=len(answered),
        prompt_only=len(dataset) - len(answered),
        dropped=[name for index, name in enumerate(ids) if index not in kept],
        cut=sum(length == args.max_length for length in lengths),
        endless=sum(not _ends(row, ends, tokenizer) for row in whole),
        tokens=TokenCounts.of(lengths) if kept else None,
        supervised=TokenCounts.of(supervised) if kept else None,
        duplicates=find_duplicates(dataset),
        example=_parts(prepared[0], tokenizer) if kept else [],
    )


def prepared_as_in_training(
    dataset: Dataset, args: DualSelectConfig, tokenizer: Any, name: str
) -> tuple[Dataset, Sequence[str]]:
    """Return the data set as TRL's trainer prepares it, and the ids by index.

    The trainer itself prepares it, so that nothing can differ; its model is a stand-in with almost no weights.
    """
    indexed, ids = identify(dataset, name)
    args = copy.copy(args)
    args.eval_strategy, args.eval_on_start, args.report_to = "no", False, []
    args.packing = False  # samples are counted and shown one by one
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        eos_token_id=tokenizer.eos_token_id,
    )
    with tempfile.TemporaryDirectory() as folder, template_errors(dataset, tokenizer, name):
        args.output_dir = folder
        trainer = SFTTrainer(
            model=LlamaForCausalLM(shape), args=args, train_dataset=indexed, processing_class=tokenizer
        )
    return trainer.train_dataset, ids


def _ends(learned: list[int], ends: Collection[int], tokenizer: Any) -> bool:
    """Whether learned tokens end in one of `ends`, apart from the space that a template puts after it."""
    last = max((place for place, token in enumerate(learned) if token in ends), default=None)
    return last is not None and not tokenizer.decode(learned[last + 1 :]).strip()


def _parts(sample: dict[str, Any], tokenizer: Any) -> list[tuple[str, bool]]:
    tokens = zip(sample["input_ids"], sample["labels"], strict=True)
    runs = groupby(tokens, key=lambda token: token[1] != IGNORED)
    return [(tokenizer.decode([token for token, _ in run]), is_supervised) for is_supervised, run in runs]
