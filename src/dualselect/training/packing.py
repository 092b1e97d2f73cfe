"""Packing: rows of several whole samples, so that short samples fill a batch as well as long ones do.

Which samples share a row is TRL's choice (best fit decreasing). Unlike in TRL a row stays a list of samples until it is
collated: each keeps its index, loss and gradient.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from torch.utils.data import Dataset as Rows
from trl import pack_dataset

from dualselect.data import INDEX_COLUMN, TOKEN_WEIGHTS
from dualselect.data.columns import Integers, list_lengths
from dualselect.errors import DataError
from dualselect.training.config import DualSelectConfig

_PACKED = "seq_lengths"  # TRL's column of the lengths of the samples in a row
_COLUMNS = ("input_ids", "labels", INDEX_COLUMN, TOKEN_WEIGHTS)


def rows_of(samples: Dataset, args: DualSelectConfig) -> "Dataset | PackedRows":
    """Return the samples in the rows that a batch counts: packed where `args` ask for that, else one by one.

    Raises:
        DataError: A sample is longer than a packed row.
    """
    if not args.packs_whole_samples or _PACKED in samples.column_names:
        return samples
    assert args.max_length is not None  # checked by the settings
    return PackedRows(samples, args.max_length)


def refuse_packed(task: Dataset, what: str) -> None:
    """Refuse a task that was packed before, whose samples are not known one by one.

    Args:
        task: Tokenised task.
        what: Part of the run that measures single samples, as the message calls it.

    Raises:
        DataError: Its rows contain several samples each.
    """
    if _PACKED in task.column_names:
        raise DataError(
            f"the task is packed already (column '{_PACKED}'), which does not go with {what}: give its samples one by "
            "one, and set packing=True"
        )


class PackedRows(Rows[list[dict[str, Any]]]):
    """Rows of whole samples: each item is a list of them, which `IndexCollator` joins into one padding-free row.

    Args:
        samples: Tokenised samples with `input_ids`, `labels`, the index column and perhaps token weights.
        room: Most tokens in a row.

    Raises:
        DataError: A sample is longer than a row.
    """

    def __init__(self, samples: Dataset, room: int) -> None:
        lengths = list_lengths(samples, "input_ids")
        if lengths.max() > room:
            raise DataError(
                f"a sample of {lengths.max()} tokens does not fit into a row of max_length={room}: raise it, or "
                "shorten the samples of a task that is not to be prepared (skip_prepare_dataset)"
            )
        self._samples = samples.select_columns([name for name in _COLUMNS if name in samples.column_names])
        self._members = members_of_rows(lengths, room)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, row: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._samples.__getitems__(self._members[row].tolist())
        return found


def members_of_rows(lengths: Integers, room: int) -> list[Integers]:
    """Return which samples share each row, as TRL packs them: places in `lengths`, longest first.

    Args:
        lengths: Tokens of every sample, `(N,)`, at least 1 and at most `room`.
        room: Most tokens in a row.
    """
    # TRL packs columns of tokens; the place of a sample in the place of each of its tokens shows where it went.
    places = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    edges = np.concatenate([[0], lengths.cumsum()])
    tokens = Dataset(pa.table({"place": pa.LargeListArray.from_arrays(edges, places)}))
    packed = pack_dataset(tokens, room, "bfd", {"desc": "Packing the task"})
    columns = packed.with_format("arrow")[:]
    sizes = _flat(columns[_PACKED])
    members = _flat(columns["place"])[sizes.cumsum() - sizes]
    counts = list_lengths(packed, _PACKED)
    return np.split(members, counts.cumsum()[:-1])


def _flat(column: pa.ChunkedArray) -> Integers:
    """Return the elements of all lists of a column, one after the other."""
    return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False), dtype=np.int64)
