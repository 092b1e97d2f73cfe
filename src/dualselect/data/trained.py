"""`samples.parquet`: which samples a run trains on and preserves, so that no test prompt is among them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from dualselect.data.disjoint import REFERENCES, TASK
from dualselect.data.overlaps import has_prompts, prompt_key, prompts_of
from dualselect.files import replacing

FILE = "samples.parquet"
_SCHEMA = pa.schema([("role", pa.string()), ("id", pa.string()), ("category", pa.string()), ("key", pa.string())])


def write_samples(run_folder: Path, sets: Mapping[str, Dataset], ids: Mapping[str, list[str]]) -> None:
    """Write role, id, category and prompt key of every task sample and reference into the run folder.

    Args:
        run_folder: Where to write.
        sets: Data sets by role; those of other roles are not written, and those without prompts have no key.
        ids: The ids under which the run knows the samples, by role.
    """
    rows = [row for role in (TASK, REFERENCES) if role in sets for row in _rows(role, sets[role], ids[role])]
    with replacing(run_folder / FILE) as draft:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), draft, compression="zstd")


def trained_prompts(run_folder: Path) -> frozenset[str]:
    """Return the prompt keys of what a run trained on; none where the folder does not say."""
    path = run_folder / FILE
    if not path.is_file():
        return frozenset()
    keys = pq.read_table(path, columns=["key"])["key"].to_pylist()
    return frozenset(key for key in keys if key is not None)


def sample_categories(run_folder: Path) -> dict[tuple[str, str], str]:
    """Return the category of every sample that has one, by (role, id); none where the folder does not say."""
    path = run_folder / FILE
    if not path.is_file():
        return {}
    rows = pq.read_table(path, columns=["role", "id", "category"]).to_pylist()
    return {(row["role"], row["id"]): row["category"] for row in rows if row["category"] is not None}


def _rows(role: str, dataset: Dataset, ids: list[str]) -> Iterator[dict[str, Any]]:
    unknown = [None] * len(dataset)
    categories = dataset["category"] if "category" in dataset.column_names else unknown
    prompts = prompts_of(dataset) if has_prompts(dataset) else unknown
    for name, category, prompt in zip(ids, categories, prompts, strict=True):
        key = None if prompt is None else prompt_key(prompt)
        yield {"role": role, "id": name, "category": category, "key": key}
