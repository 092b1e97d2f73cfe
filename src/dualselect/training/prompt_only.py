"""References without an answer: the starting model's own greedy answer is taken, generated once, without thoughts."""

import json
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from transformers.utils import logging

from dualselect.distributed import on_main_process
from dualselect.errors import DataError
from dualselect.files import replacing
from dualselect.models.thoughts import Answer

FILE = "reference_answers.parquet"

Generate = Callable[[list[Any]], list[Answer]]

_logger = logging.get_logger(__name__)


def answered(dataset: Dataset, run_folder: Path, recipe: str, generate: Generate, *, together: bool = False) -> Dataset:
    """Return the references with an answer in every row; those that the model does not answer are left out.

    Thoughts are no part of an answer. An answer that the limit of tokens cuts off is kept, one that it never lets begin
    is not.

    The main process answers. Its answers are kept in `<run folder>/reference_answers.parquet` and read from there if
    prompts and recipe are the same, so that a resumed run has those of the first.

    Args:
        dataset: References in a form of TRL's; rows of the form prompt-completion may lack the completion.
        run_folder: Output folder of the run.
        recipe: Text that identifies what else the answers depend on: model and generation settings.
        generate: Function that returns the answers to a list of prompts, in order.
        together: Whether all processes answer, all prompts each, as a sharded model needs.

    Raises:
        DataError: The starting model answers none of the prompts, and no other reference has an answer.
    """
    missing = _unanswered(dataset)
    if not missing:
        return dataset
    prompts = [dataset[index]["prompt"] for index in missing]
    answers = _answers(prompts, run_folder / FILE, recipe, generate, together)
    given = dict(zip(missing, answers, strict=True))
    lost = [index for index, answer in given.items() if answer is None]
    if len(lost) == len(dataset):
        raise DataError(
            f"the model answers nothing to any of the {len(lost)} references, or its thoughts do not end in time: give "
            "the references a completion, or raise reference_answer_tokens"
        )
    if lost:
        _logger.warning(
            f"{len(lost)} of {len(dataset)} references are skipped: the model answers nothing to them, or its thoughts "
            "do not end in time; give them a completion, or raise reference_answer_tokens"
        )
    before = dataset["completion"] if "completion" in dataset.column_names else [None] * len(dataset)
    completions = [
        _as_completion(given[index], dataset[index]["prompt"]) if index in given else completion
        for index, completion in enumerate(before)
    ]
    others = [name for name in dataset.column_names if name != "completion"]
    return Dataset.from_list(
        [
            {**row, "completion": completion}
            for row, completion in zip(dataset.select_columns(others), completions, strict=True)
            if completion is not None
        ]
    )


def _unanswered(dataset: Dataset) -> list[int]:
    if "prompt" not in dataset.column_names:
        return []
    if "completion" not in dataset.column_names:
        return list(range(len(dataset)))
    return [index for index, completion in enumerate(dataset["completion"]) if not completion]


def _answers(prompts: list[Any], path: Path, recipe: str, generate: Generate, together: bool) -> list[str | None]:
    """Return the answers kept in a file, which only the main process may reach, or new ones."""
    key = sha256(json.dumps([recipe, prompts], sort_keys=True).encode()).hexdigest().encode()
    kept = on_main_process(partial(_kept, path, key))
    if kept is not None:
        return kept
    answers = generate(prompts) if together else None

    def make() -> list[str | None]:
        texts = _without_thoughts(generate(prompts) if answers is None else answers)
        _keep(path, key, prompts, texts)
        return texts

    return on_main_process(make)


def _kept(path: Path, key: bytes) -> list[str | None] | None:
    if not path.is_file():
        return None
    kept = pq.read_table(path)
    return list(kept["answer"].to_pylist()) if (kept.schema.metadata or {}).get(b"key") == key else None


def _keep(path: Path, key: bytes, prompts: list[Any], answers: list[str | None]) -> None:
    texts = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
    table = pa.table({"prompt": texts, "answer": answers}).replace_schema_metadata({b"key": key})
    with replacing(path) as draft:
        pq.write_table(table, draft)


def _without_thoughts(answers: list[Answer]) -> list[str | None]:
    """Return the texts of the answers apart from thoughts; None where there is none."""
    texts = [answer.split().answer or None for answer in answers]
    cut = sum(text is not None and answer.finish == "length" for answer, text in zip(answers, texts, strict=True))
    if cut:
        _logger.warning(
            f"{cut} of {len(answers)} answers of the model to references are cut off by reference_answer_tokens; raise "
            "it to have them whole"
        )
    return texts


def _as_completion(answer: str | None, prompt: Any) -> Any:
    return answer if answer is None or isinstance(prompt, str) else [{"role": "assistant", "content": answer}]
