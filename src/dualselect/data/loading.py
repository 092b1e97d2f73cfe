"""Loading a source into a data set of prompts and completions, with stable ids."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from itertools import islice
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, List, Value

from dualselect.data.columns import column_of
from dualselect.data.forms import Form, detect_form, ignored_fields, read_content
from dualselect.data.identity import ContentIds
from dualselect.data.messages import id_of, whole
from dualselect.data.records import Record, read_records
from dualselect.errors import DataError
from dualselect.files import temporary_folder

_MESSAGES = List({"role": Value("string"), "content": Value("string")})
FEATURES = Features(
    {
        "id": Value("string"),
        "prompt": _MESSAGES,
        "completion": _MESSAGES,
        "category": Value("string"),
        "planted": Value("bool"),
        "row": Value("int64"),
        "source": Value("string"),
    }
)

_CHUNK = 4096  # records held as Python objects at once


@dataclass(frozen=True)
class LoadedSamples:
    """A data set, and what was found while loading it.

    Attributes:
        dataset: The samples, with the columns of `load_samples`.
        form: The form of the records.
        rows: Number of records that were read of the source, before any limit.
        ignored: Fields of the records that have content and were not read.
    """

    dataset: Dataset
    form: Form
    rows: int
    ignored: tuple[str, ...] = ()


def load_samples(
    source: str, *, split: str = "train", limit: int | None = None, seed: int = 0, role: str = "task"
) -> Dataset:
    """Return the samples of a source; the same content gives the same samples, whatever its form and kind of file.

    Args:
        source: A .jsonl, .json, .csv or .parquet file, a folder of them, or a hub id (`owner/name`,
            `owner/name:configuration` or `owner/name/folder`).
        split: Split to read, of hub ids and of folders whose files are named after splits.
        limit: Number of samples to draw, without replacement; None takes all. Which ones depends on `seed` and
            their ids, not on their order; they keep the order of the source.
        seed: Seed of the draw.
        role: Role of the samples, for errors. Samples of the role 'references' may lack the completion (then None).

    Returns:
        A data set with the columns `id` (str; the record's own, else a hash of prompt and completion, numbered where
        that repeats), `prompt` and `completion` (lists of `{"role", "content"}`), `category` (str or None), `row`
        (int; line of a JSONL or CSV file, else number from 1) and `source` (file or hub id); and, where a record says
        so, `planted` (bool or None): whether the sample was planted to attack the run.

    Raises:
        DataError: The source is missing, empty or unreadable, or a record cannot be used; it names file, line and
            field.
    """
    return load_with_form(source, split=split, limit=limit, seed=seed, role=role).dataset


def load_with_form(
    source: str,
    *,
    split: str = "train",
    limit: int | None = None,
    first: int | None = None,
    seed: int = 0,
    role: str = "task",
) -> LoadedSamples:
    """Do as `load_samples`, and also return the form that was detected and how many records there are.

    With `first`, only as many records are read from the start of the source, and a hub data set is streamed.
    """
    try:
        reading = _Reading(answer_needed=role != "references")
        records = islice(read_records(source, split, streaming=first is not None), first)
        dataset = _stored(map(reading.sample, records))
    except DataError as error:
        raise DataError(f"{role}: {error}") from error
    if reading.form is None:
        raise DataError(f"{role}: {source}: contains no records; give at least one")
    total = len(dataset)
    if column_of(dataset, "planted").null_count == total:  # so that data without the field stay as they are
        dataset = dataset.remove_columns("planted")
    if limit is not None and limit < total:
        table = dataset.data.table
        dataset = Dataset(table.take(_drawn(table["id"].to_pylist(), limit, seed)))
    return LoadedSamples(dataset, reading.form, total, tuple(reading.ignored))


def _stored(rows: Iterator[dict[str, Any]]) -> Dataset:
    """Return rows as a data set: a chunk of them in memory, more of them mapped from a file.

    What is later made of a mapped data set, such as its tokens, is mapped from a file beside it. The folder is a
    temporary one, which is deleted when the process ends.
    """
    table = _next(rows)
    if len(table) < _CHUNK:
        return Dataset(table)
    path = temporary_folder() / "samples.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, FEATURES.arrow_schema) as writer:
        while len(table):
            writer.write_table(table)
            table = _next(rows)
    return Dataset.from_file(str(path))


def _next(rows: Iterator[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(list(islice(rows, _CHUNK)), schema=FEATURES.arrow_schema)


@dataclass
class _Reading:
    """State from one record to the next: the form, the ids and the fields that were not read."""

    answer_needed: bool
    form: Form | None = None
    own_ids: dict[str, str] = field(default_factory=dict)
    content_id: ContentIds = field(default_factory=ContentIds)
    ignored: dict[str, None] = field(default_factory=dict)  # in the order in which they appear

    def sample(self, record: Record) -> dict[str, Any]:
        if self.form is None:
            self.form = detect_form(record.fields, record.place, self.answer_needed)
        content = read_content(record.fields, self.form, record.place, self.answer_needed)
        self.ignored |= dict.fromkeys(ignored_fields(record.fields, self.form))
        category = record.fields.get("category")
        return {
            "id": self._own_id(record) or self.content_id(content),
            "prompt": content[0],
            "completion": content[1],
            "category": None if category is None else whole(str(category), "category", record.place),
            "planted": _planted(record),
            "row": record.row,
            "source": record.source,
        }

    def _own_id(self, record: Record) -> str | None:
        value = record.fields.get("id")
        if value is None:
            return None
        name = id_of(value, "id", record.place)
        before = self.own_ids.setdefault(name, record.place)
        if before is not record.place:
            raise DataError(f"{record.place}: field 'id' is '{name}', as in {before}; give every record its own id")
        return name


def _planted(record: Record) -> bool | None:
    """Return whether a record was planted to attack the run; None where it does not say."""
    value = record.fields.get("planted")
    if value is None or isinstance(value, bool):
        return value
    if str(value).lower() not in ("true", "false"):
        raise DataError(f"{record.place}: field 'planted' is {value!r}; give true or false, or leave it out")
    return str(value).lower() == "true"


def _drawn(ids: list[str], limit: int, seed: int) -> list[int]:
    """Return the indices, ascending, of the `limit` ids whose hash with the seed is smallest."""
    if limit < 1:
        raise DataError(f"limit is {limit}; give at least 1")
    return sorted(heapq.nsmallest(limit, range(len(ids)), key=lambda index: lot(ids[index], seed)))


def lot(name: str, seed: int) -> bytes:
    """Return the number that a sample is drawn by: the smallest are drawn."""
    return sha1(f"{seed}:{name}".encode(), usedforsecurity=False).digest()
