"""`samples.parquet`: which samples a run trains on and preserves, so that no test prompt is among them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from dualselect.data.disjoint import is_evaluation
from dualselect.data.identity import is_planted
from dualselect.data.overlaps import sample_keys
from dualselect.files import replacing

FILE = "samples.parquet"
_ROWS_AT_ONCE = 4096
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("role", "id", "category", "key")),
        ("planted", pa.bool_()),  # missing in files of older versions
    ]
)


def write_samples(run_folder: Path, sets: Mapping[str, Dataset], ids: Mapping[str, Sequence[str]]) -> None:
    """Write id, category and prompt key of every sample of the task and the pools into the run folder.

    A sample is planted if its column `planted` says so; without that column, or where it is null, its id does.

    Args:
        run_folder: Folder of the run.
        sets: Data sets by role; evaluation sets are not written.
        ids: Ids of the samples in the run, by role.
    """
    trained = [role for role in sets if not is_evaluation(role)]
    rows = (row for role in trained for row in _rows(role, sets[role], ids[role]))
    with (
        replacing(run_folder / FILE) as draft,
        pq.ParquetWriter(draft, _SCHEMA, compression="zstd") as writer,
    ):
        while part := list(islice(rows, _ROWS_AT_ONCE)):
            writer.write_table(pa.Table.from_pylist(part, schema=_SCHEMA))


def trained_prompts(folder: Path) -> frozenset[str]:
    """Return the prompt keys of what a run trained on; none where that is unknown, which `trained_doubt` reports.

    Args:
        folder: Folder of a run, or of one of its checkpoints.
    """
    return frozenset(key for key in _keys(folder) or () if key is not None and ":" not in key)


def trained_doubt(folder: Path) -> str:
    """Return why it is unknown which prompts the model in a folder was trained on; empty where all are known.

    Args:
        folder: Folder of a run, of one of its checkpoints, or of any model.
    """
    keys = _keys(folder)
    if keys is None:
        return (
            f"{folder}: has no {FILE}, so it is unknown which prompts the model was trained on; none are left out "
            "(evaluate the run folder itself to leave them out)"
        )
    unknown = sum(key is None or ":" in key for key in keys)
    if unknown:
        return (
            f"{folder}: {unknown} of {len(keys)} samples were trained on as texts or tokens; prompts among them are "
            "not left out"
        )
    return ""


def sample_categories(run_folder: Path) -> dict[tuple[str, str], str]:
    """Return the category of every sample that has one, by (role, id); none where the folder does not say."""
    path = run_folder / FILE
    if not path.is_file():
        return {}
    rows = pq.read_table(path, columns=["role", "id", "category"]).to_pylist()
    return {(row["role"], row["id"]): row["category"] for row in rows if row["category"] is not None}


def sample_planted(run_folder: Path) -> dict[tuple[str, str], bool]:
    """Return whether each sample was planted to attack the run, by (role, id); empty where the folder does not say."""
    path = run_folder / FILE
    if not path.is_file() or "planted" not in pq.read_schema(path).names:
        return {}
    rows = pq.read_table(path, columns=["role", "id", "planted"]).to_pylist()
    return {(row["role"], row["id"]): row["planted"] for row in rows}


def _keys(folder: Path) -> list[str | None] | None:
    """Return the keys of all samples of a run, or of a checkpoint's; None where the folder does not say."""
    folder = folder.expanduser()
    if re.fullmatch(r"checkpoint-\d+", folder.name) and not (folder / FILE).is_file():
        folder = folder.parent
    if not (folder / FILE).is_file():
        return None
    keys: list[str | None] = pq.read_table(folder / FILE, columns=["key"])["key"].to_pylist()
    return keys


def _rows(role: str, dataset: Dataset, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    categories, marks = (_column(dataset, name) for name in ("category", "planted"))
    for name, category, key, mark in zip(ids, categories, sample_keys(dataset), marks, strict=True):
        planted = is_planted(name) if mark is None else bool(mark)
        yield {"role": role, "id": name, "category": category, "key": key, "planted": planted}


def _column(dataset: Dataset, name: str) -> Iterable[Any]:
    return dataset[name] if name in dataset.column_names else repeat(None, len(dataset))
