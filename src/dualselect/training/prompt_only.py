"""References without an answer get the starting model's own greedy answer, generated once."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from dualselect.distributed import from_main_process, rank
from dualselect.errors import DataError
from dualselect.files import replacing

FILE = "reference_answers.parquet"

Generate = Callable[[list[Any]], list[str]]


def answered(dataset: Dataset, run_folder: Path, recipe: str, generate: Generate) -> Dataset:
    """Return the references with an answer in every row.

    The main process answers. Its answers are kept in `<run folder>/reference_answers.parquet` and read from there if
    prompts and recipe are the same, so that a resumed run has those of the first.

    Args:
        dataset: References in a form of TRL's; rows of the form prompt-completion may lack the completion.
        run_folder: Output folder of the run.
        recipe: Text that identifies what else the answers depend on: model and generation settings.
        generate: Function that returns the answers to a list of prompts, in order.

    Raises:
        DataError: The starting model gives no answer to any of the prompts.
    """
    missing = _unanswered(dataset)
    if not missing:
        return dataset
    prompts = [dataset[index]["prompt"] for index in missing]
    # One process answers, since not all of them may reach the folder.
    kept = _kept_or_generated(prompts, run_folder / FILE, recipe, generate) if rank() == 0 else None
    answers: list[str] = from_main_process(kept)
    if not any(answers):
        raise DataError(f"the model gives no answer to any of the {len(prompts)} references without a completion")
    given = dict(zip(missing, answers, strict=True))
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
        ]
    )


def _unanswered(dataset: Dataset) -> list[int]:
    if "prompt" not in dataset.column_names:
        return []
    if "completion" not in dataset.column_names:
        return list(range(len(dataset)))
    return [index for index, completion in enumerate(dataset["completion"]) if not completion]


def _kept_or_generated(prompts: list[Any], path: Path, recipe: str, generate: Generate) -> list[str]:
    key = sha256(json.dumps([recipe, prompts], sort_keys=True).encode()).hexdigest().encode()
    if path.is_file():
        kept = pq.read_table(path)
        if (kept.schema.metadata or {}).get(b"key") == key:
            answers: list[str] = kept["answer"].to_pylist()
            return answers
    answers = generate(prompts)
    texts = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
    table = pa.table({"prompt": texts, "answer": answers}).replace_schema_metadata({b"key": key})
    with replacing(path) as draft:
        pq.write_table(table, draft)
    return answers


def _as_completion(answer: str, prompt: Any) -> Any:
    return answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]
