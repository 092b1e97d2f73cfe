"""The sets of a diagnostic: batches of the task, references and a probe, which share no prompts.

The task comes first: its prompts are left out of the references, and those of both out of the probe. A prompt that
recurs in a set is used once.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

from datasets import Dataset

from dualselect.data import load_samples
from dualselect.data.loading import lot
from dualselect.data.overlaps import sample_keys
from dualselect.data.records import read_records
from dualselect.diagnostics.batches import apart_rows, batches_by_group
from dualselect.diagnostics.keywords import PACKAGED, Keywords
from dualselect.diagnostics.options import DiagnosticOptions
from dualselect.errors import DataError
from dualselect.runs.diagnostic import PROBE, REFERENCES, RESOURCES_FILE, TASK, read_table, write_json, write_table

SETTINGS = (
    *("task", "task_split", "task_limit", "references", "references_split", "references_limit"),
    *("probe", "probe_split", "probe_limit", "exclude", "exclude_split"),
    *("group_by", "category_by", "keywords", "batch_size", "batches"),
)
FILES = (RESOURCES_FILE, "tasks.parquet", "references.parquet", "probe.parquet")

_TABLES = {TASK: "tasks", REFERENCES: "references", PROBE: "probe"}


@dataclass(frozen=True)
class Labelled:
    """Samples with what they are sorted by; `label` is the group of a task sample, else the safety category."""

    dataset: Dataset
    label: list[str]
    risk: list[int]

    def take(self, rows: Sequence[int]) -> "Labelled":
        """Return some of the samples, in the order given."""
        return Labelled(self.dataset.select(rows), [self.label[row] for row in rows], [self.risk[row] for row in rows])


def make_resources(options: DiagnosticOptions, seed: int, folder: Path) -> None:
    """Write the tables of the sets and the report about them; raises what `gather` does."""
    tables, report = gather(options, seed)
    write_json(folder, RESOURCES_FILE, report)
    for name, rows in tables.items():
        write_table(folder, name, rows)


def gather(options: DiagnosticOptions, seed: int) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Return the rows of the tables of the sets, and the report about them.

    Raises:
        ConfigError: The keywords cannot be read.
        DataError: A set cannot be used, none of it is left, or no group of the task fills a batch.
    """
    keywords = Keywords.read(options.keywords or PACKAGED)
    sources = {name: (getattr(options, name), getattr(options, f"{name}_split")) for name in _TABLES}
    loaded = {name: load_samples(source, split=split, role=name) for name, (source, split) in sources.items()}
    excluded = [load_samples(source, split=options.exclude_split, role=REFERENCES) for source in options.exclude]
    keys = {name: list(sample_keys(dataset)) for name, dataset in loaded.items()}
    apart = apart_rows(keys, {key for dataset in excluded for key in sample_keys(dataset)})
    columns = {TASK: options.group_by, REFERENCES: options.category_by, PROBE: options.category_by}
    sets = {}
    for name, dataset in loaded.items():
        if not apart[name]:
            raise DataError(f"{name}: all of its prompts are in other sets too; give other data")
        labelled = _labelled(dataset, name, *sources[name], columns[name], keywords).take(apart[name])
        sets[name] = labelled.take(_drawn(labelled, name, getattr(options, f"{name}_limit"), seed))
    groups = dict.fromkeys(sorted(set(sets[TASK].label)))
    batches = batches_by_group(sets[TASK].label, sets[TASK].dataset["id"], options.batch_size, options.batches, seed)
    if not batches:
        raise DataError(
            f"task: no group has {options.batch_size} samples for a batch ({_counts(sets[TASK].label)}); lower "
            "batch_size, or give more data"
        )
    sets[TASK] = sets[TASK].take([row for rows in batches.values() for row in rows])
    of_batch = [name for name, rows in batches.items() for _ in rows]
    tables = {table: _rows(sets[name], of_batch if name == TASK else None) for name, table in _TABLES.items()}
    return tables, _report(loaded, keys, sources, sets, [*groups], options)


def read_set(folder: Path, name: str) -> Dataset:
    """Return a set of the diagnostic as it is trained on: the columns `id`, `prompt` and `completion`."""
    table = read_table(folder, _TABLES[name]).select(["id", "turns", "answer"])
    return Dataset(table.rename_columns(["id", "prompt", "completion"]))


def source_digests(options: DiagnosticOptions) -> dict[str, str]:
    """Return the SHA-256 of the files that the sets are made of; what is on the hub is known by its name."""
    named = {name: [getattr(options, name)] for name in (*_TABLES, "keywords")} | {"exclude": options.exclude}
    found = {name: [_digest(Path(source)) for source in sources if source] for name, sources in named.items()}
    return {f"contents of {name}": " ".join(digests) for name, digests in found.items() if any(digests)}


def _labelled(dataset: Dataset, name: str, source: str, split: str, column: str | None, keywords: Keywords) -> Labelled:
    prompts = ["\n".join(turn["content"] for turn in turns if turn["role"] == "user") for turns in dataset["prompt"]]
    answers = [_last_text(turns) if turns else "" for turns in dataset["completion"]]
    by_words: Callable[[str], str] = keywords.group if name == TASK else keywords.category
    label = [by_words(prompt) for prompt in prompts] if column is None else _field(dataset, source, split, column)
    risk = [0] * len(prompts) if name == TASK else list(map(keywords.risk_of, prompts, answers))
    return Labelled(dataset, label, risk)


def _field(dataset: Dataset, source: str, split: str, column: str) -> list[str]:
    """Return a field of the records that a data set was loaded from."""
    values = {(record.source, record.row): record.fields.get(column) for record in read_records(source, split)}
    found = [values[key] for key in zip(dataset["source"], dataset["row"], strict=True)]
    if None in found:
        row = dataset["row"][found.index(None)]
        raise DataError(f"{source}: record {row} has no field '{column}'; name another, or let keywords decide")
    return [str(value) for value in found]


def _drawn(labelled: Labelled, name: str, limit: int | None, seed: int) -> list[int]:
    """Return the rows that a limit leaves: those drawn by the seed, of the probe those of highest risk."""
    ids = labelled.dataset["id"]
    order = sorted(range(len(ids)), key=lambda row: (-labelled.risk[row] if name == PROBE else 0, lot(ids[row], seed)))
    return sorted(order[:limit])


def _rows(labelled: Labelled, batches: Sequence[str] | None) -> list[dict[str, Any]]:
    rows = []
    for row, sample in enumerate(labelled.dataset):
        own = {"row": row, "id": sample["id"], "prompt": _last_text(sample["prompt"])}
        own |= {"turns": sample["prompt"], "answer": sample["completion"]}
        if batches is None:
            rows.append(own | {"category": labelled.label[row], "risk": labelled.risk[row]})
        else:
            rows.append(own | {"group": labelled.label[row], "batch": batches[row]})
    return rows


def _report(
    loaded: Mapping[str, Dataset],
    keys: Mapping[str, Sequence[str | None]],
    sources: Mapping[str, tuple[str, str]],
    sets: Mapping[str, Labelled],
    groups: Sequence[str],
    options: DiagnosticOptions,
) -> dict[str, Any]:
    used = {name: set(sample_keys(labelled.dataset)) for name, labelled in sets.items()}
    before = {name: set(own) for name, own in keys.items()}
    filled = Counter(sets[TASK].label)
    return {
        "sets": {
            name: {
                "source": sources[name][0],
                "split": sources[name][1],
                "samples": len(loaded[name]),
                "unique_prompts": len(before[name]),
                "used": len(labelled.label),
                "used_unique_prompts": len(used[name]),
                "groups" if name == TASK else "categories": dict(sorted(Counter(labelled.label).items())),
            }
            for name, labelled in sets.items()
        },
        "batches": {
            "size": options.batch_size,
            "by_group": {name: filled[name] // options.batch_size for name in groups},
        },
        "shared_prompts": [
            {"sets": [a, b], "before": len(before[a] & before[b]), "after": len(used[a] & used[b])}
            for a, b in combinations(used, 2)
        ],
    }


def _counts(labels: Sequence[str]) -> str:
    return ", ".join(f"{name}: {count}" for name, count in sorted(Counter(labels).items()))


def _last_text(turns: Sequence[Mapping[str, Any]]) -> str:
    return str(turns[-1]["content"])


def _digest(path: Path) -> str:
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = sha256()
    for file in files if path.exists() else ():
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest() if path.exists() else ""
