"""Loading the samples of a suite: from the hub, from this package, or from the user's own file."""

import heapq
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from dualselect.data.identity import content_hash
from dualselect.data.loading import lot
from dualselect.data.messages import id_of
from dualselect.data.records import Record, read_records
from dualselect.errors import ConfigError, DataError
from dualselect.evaluation.suites.base import LoadedSuite, Sample, Suite
from dualselect.evaluation.suites.readers import ask_for_label

_DATA = Path(__file__).parent / "data"
_PROMPT_FIELDS = ("prompt", "instruction", "question", "text", "messages", "query")


def load(suite: Suite, source: str | None = None, limit: int | None = None, seed: int = 0) -> LoadedSuite:
    """Return the samples of a suite.

    Args:
        suite: Suite to load.
        source: A .jsonl, .json, .csv or .parquet file, a folder of them or a hub id, in the layout of the original or
            in one of the forms of training data; None takes the suite's own source.
        limit: Number of samples to draw, without replacement; None takes all. Which ones depends on `seed` and their
            ids, not on their order; they keep the order of the source.
        seed: Seed of the draw.

    Raises:
        ConfigError: The suite has no data of its own and none are given, or `limit` is below 1.
        DataError: The source is missing or unreadable, or a record cannot be used; it names file, line and field.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"suite '{suite.name}': limit is {limit}; give at least 1")
    place, name = _source(suite, source)
    labels: set[str] = set()
    try:
        numbered = enumerate(_identified(suite, _records(suite, place), labels))
        if limit is None:
            samples = [sample for _, sample in numbered]
        else:
            drawn = heapq.nsmallest(limit, numbered, key=lambda item: lot(item[1].id, seed))
            samples = [sample for _, sample in sorted(drawn, key=lambda item: item[0])]
    except DataError as error:
        own = source is None and suite.embedded is None
        cure = f"; or give a copy of it with --data {suite.name}=PATH" if own else ""
        raise DataError(f"suite '{suite.name}': {error}{cure}") from error
    if not samples:
        raise DataError(f"suite '{suite.name}': {name}: none of its records is part of the suite; check the file")
    if suite.scoring == "classification":
        samples = _with_labels(suite, samples, suite.labels or tuple(sorted(labels)), name)
    content = json.dumps([asdict(sample) for sample in samples], sort_keys=True)
    return LoadedSuite(samples, name, sha256(content.encode()).hexdigest())


def _source(suite: Suite, source: str | None) -> tuple[str, str]:
    """Return where the data are, and their name in results."""
    if source is not None:
        return source, source
    if suite.embedded is not None:
        return str(_DATA / suite.embedded), f"dualselect/{suite.embedded}"
    if suite.source is not None:
        return suite.source, suite.source
    advice = f" ({suite.advice})" if suite.advice else ""
    raise ConfigError(f"suite '{suite.name}' has no data of its own{advice}; give them with --data {suite.name}=PATH")


def _records(suite: Suite, source: str) -> Iterator[Record]:
    """Yield the records; where files have no header, the line read as one is the first record."""
    last = ""
    for record in read_records(source, suite.split):
        (name, *others) = record.fields or ("",)
        if not suite.has_header and not others and name not in _PROMPT_FIELDS:
            if record.source != last:
                yield Record({"prompt": name}, record.source, 1, f"{record.source}:1")
            last = record.source
            record = record._replace(fields={"prompt": record.fields[name]})
        yield record


def _identified(suite: Suite, records: Iterator[Record], labels: set[str]) -> Iterator[Sample]:
    """Yield the samples with their ids, the records' own or a hash of their content; collects the labels."""
    places: dict[str, str] = {}
    seen: dict[str, int] = {}
    for record in records:
        sample = suite.reader(record)
        if sample is None:
            continue
        if suite.scoring == "classification" and sample.expected is not None:
            labels.add(sample.expected)
        name = _own_id(record, suite.id_field)
        if name is None:
            name = content_hash((sample.prompt, _completion(sample)))
            seen[name] = count = seen.get(name, 0) + 1
            name = name if count == 1 else f"{name}-{count}"
        elif places.setdefault(name, record.place) is not record.place:
            raise DataError(f"{record.place}: its id '{name}' is also in {places[name]}; give every record its own id")
        yield sample.named(name)


def _own_id(record: Record, id_field: str) -> str | None:
    for field in ("id", id_field):
        value = record.fields.get(field)
        if value is not None:
            return id_of(value, field, record.place)
    return None


def _completion(sample: Sample) -> list[dict[str, str]] | None:
    return None if sample.expected is None else [{"role": "assistant", "content": sample.expected}]


def _with_labels(suite: Suite, samples: list[Sample], labels: tuple[str, ...], source: str) -> list[Sample]:
    if len(labels) < 2:
        raise DataError(f"suite '{suite.name}': {source}: has one label only, '{labels[0]}'; give data with several")
    return [replace(sample, choices=labels, prompt=ask_for_label(sample, labels)) for sample in samples]
