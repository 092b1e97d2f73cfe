"""What identifies a sample: its id through all runs, and its index from preparation to the batch."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1, sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from dualselect.data.columns import Ids, column_of, integers
from dualselect.errors import DataError

#: The column of a sample's index; a name that no user's data set has.
INDEX_COLUMN = "dualselect_index"
TOKEN_WEIGHTS = "token_weights"
#: Prefix of the ids of samples planted to attack a run, where no column `planted` says which these are.
PLANTED_PREFIX = "poison-"


def identify(dataset: Dataset, name: str = "data set") -> tuple[Dataset, Ids]:
    """Return the data set with an index column, and the id at each index.

    Ids come from the column `id`. Where that is missing or null, the id is a hash of the row's content, numbered where
    rows repeat. All other columns stay, since a formatting function may read any of them; preparation keeps those out
    of batches.

    Args:
        dataset: Samples in any of TRL's forms.
        name: Name of the data set in errors.

    Raises:
        DataError: Two rows have the same id.
    """
    ids = _own_ids(dataset) or Ids(_any_ids(dataset, name))
    if INDEX_COLUMN in dataset.column_names:  # of an earlier preparation
        dataset = dataset.remove_columns(INDEX_COLUMN)
    return dataset.add_column(INDEX_COLUMN, np.arange(len(dataset))), ids


def _own_ids(dataset: Dataset) -> Ids | None:
    """Return the column `id` where it is text, complete and without repetition, as in all that was loaded by us."""
    if "id" not in dataset.column_names:
        return None
    column = column_of(dataset, "id")
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not is_text or column.null_count or len(pc.unique(column)) < len(column):
        return None
    return Ids(column.cast(pa.large_string()).combine_chunks())


def _any_ids(dataset: Dataset, name: str) -> list[str]:
    ids: list[str] = []
    rows: dict[str, int] = {}
    contents = ContentIds()
    named = dataset["id"] if "id" in dataset.column_names else [None] * len(dataset)
    for row, own in enumerate(named, start=1):
        if own is None:
            ids.append(contents({key: value for key, value in dataset[row - 1].items() if key != "id"}))
        else:
            ids.append(str(own))
            if rows.setdefault(str(own), row) != row:
                raise DataError(
                    f"{name}: rows {rows[str(own)]} and {row} have the same id '{own}'; give every sample its own, or "
                    "remove the column 'id'"
                )
    return ids


def is_planted(name: str) -> bool:
    """Whether the id of a sample says that it was planted to attack a run."""
    return name.startswith(PLANTED_PREFIX)


def dropped_ids(ids: Sequence[str], prepared: Dataset) -> list[str]:
    """Return the ids of the samples that preparation left out, having no supervised token after truncation."""
    is_dropped = np.ones(len(ids), dtype=bool)
    is_dropped[integers(prepared, INDEX_COLUMN)] = False
    return [ids[index] for index in is_dropped.nonzero()[0].tolist()]


class ContentIds:
    """Ids made from contents: equal contents get equal hashes, numbered from the second on."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def __call__(self, content: Any) -> str:
        """Return the id of the next sample."""
        digest = content_hash(content)
        self._seen[digest] += 1
        return digest if self._seen[digest] == 1 else f"{digest}-{self._seen[digest]}"


def content_hash(content: Any) -> str:
    """Return 16 hexadecimal digits that identify a value of JSON's types."""
    return sha1(_canonical(content), usedforsecurity=False).hexdigest()[:16]


def content_digest(dataset: Dataset, ids: Sequence[str] = ()) -> str:
    """Return the SHA-256 over all rows in their order, and over ids where those are not a column of it.

    Two data sets with one digest have the same columns, contents and ids, whatever files they come from.
    """
    digest = sha256()
    for row in dataset:
        digest.update(_canonical(row) + b"\n")
    for name in ids:
        digest.update(_canonical(name) + b"\n")
    return digest.hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, default=str).encode()


@dataclass
class IndexCollator:
    """Collates with `collate`, and adds what that does not know: indices and token weights.

    Attributes:
        collate: Function that makes a batch of samples, padded on the right.
        add: Function from a batch on the CPU and its number of samples to further entries of the batch.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]
    add: Callable[[dict[str, Any], int], Mapping[str, Any]] = lambda batch, size: {}

    def __call__(self, rows: Sequence[dict[str, Any] | list[dict[str, Any]]]) -> dict[str, Any]:
        """Return the batch with the index column, `(B,)` int64, and `token_weights`, `(B, T)` fp32, where given.

        Padding has weight 0. Where the samples are joined into one row, so are the weights.

        Args:
            rows: Samples, or lists of those that share a packed row; B counts samples.
        """
        import torch  # here, so that commands that only read data need not wait for it

        examples = [sample for row in rows for sample in (row if isinstance(row, list) else [row])]
        own = (INDEX_COLUMN, TOKEN_WEIGHTS)
        batch = self.collate([{key: value for key, value in row.items() if key not in own} for row in examples])
        if INDEX_COLUMN in examples[0]:
            batch[INDEX_COLUMN] = torch.tensor([row[INDEX_COLUMN] for row in examples])
            batch.update(self.add(batch, len(examples)))
        if TOKEN_WEIGHTS in examples[0]:
            labels = batch["labels"]
            weights = [torch.tensor(row[TOKEN_WEIGHTS], dtype=torch.float32) for row in examples]
            if len(labels) < len(examples):
                weights = [torch.cat(weights)]
            padded = [torch.nn.functional.pad(row, (0, labels.shape[1] - len(row))) for row in weights]
            batch[TOKEN_WEIGHTS] = torch.stack(padded)
        return batch
