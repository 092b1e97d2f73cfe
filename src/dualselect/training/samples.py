"""Samples that keep their identity through tokenisation, truncation and batching."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

import torch
from datasets import Dataset

INDEX_COLUMN = "sample_index"
# What describes a sample but is no input of TRL's preparation.
_DESCRIPTIVE_COLUMNS = ("id", "category", "row", "source")


def identify(dataset: Dataset) -> tuple[Dataset, list[str]]:
    """Return the data set with an index column, and the id at each index.

    Ids come from the column `id` if there is one, else from a hash of the row's content, numbered where rows repeat.
    """
    ids = [str(value) for value in dataset["id"]] if "id" in dataset.column_names else _content_ids(dataset)
    described = [name for name in _DESCRIPTIVE_COLUMNS if name in dataset.column_names]
    bare = dataset.remove_columns(described)
    return bare.add_column(INDEX_COLUMN, list(range(len(bare)))), ids


def _content_ids(dataset: Dataset) -> list[str]:
    seen: dict[str, int] = {}
    ids = []
    for row in dataset:
        content = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        digest = sha1(content.encode(), usedforsecurity=False).hexdigest()[:16]
        seen[digest] = seen.get(digest, 0) + 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return ids


def dropped_ids(ids: Sequence[str], prepared: Dataset) -> list[str]:
    """Return the ids of the samples that preparation left out, having no supervised token after truncation."""
    kept = set(prepared[INDEX_COLUMN])
    return [name for index, name in enumerate(ids) if index not in kept]


@dataclass
class IndexCollator:
    """Collates with `collate` and carries each sample's index along, shape `(B,)`, int64."""

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, with the index column where the examples have one."""
        indices = [example[INDEX_COLUMN] for example in examples if INDEX_COLUMN in example]
        bare = [{name: value for name, value in example.items() if name != INDEX_COLUMN} for example in examples]
        batch = self.collate(bare)
        if indices:
            batch[INDEX_COLUMN] = torch.tensor(indices)
        return batch
