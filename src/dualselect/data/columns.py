"""Columns of a data set as arrays: a number a sample takes 8 bytes there, and some 40 in a Python list."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset


def column_of(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Return a narrow column, such as ids or numbers, in the data set's order."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def integers(dataset: Dataset, name: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return a column of whole numbers, `(N,)` int64."""
    return np.asarray(column_of(dataset, name).to_numpy(), dtype=np.int64)


def category_numbers(dataset: Dataset) -> "np.ndarray[Any, np.dtype[np.int64]] | None":
    """Return the number of each sample's category, `(N,)` int64, -1 where it has none; None without any category."""
    if "category" not in dataset.column_names:
        return None
    column = column_of(dataset, "category")
    if pa.types.is_nested(column.type) or column.null_count == len(column):
        return None
    codes = pc.dictionary_encode(column).combine_chunks().indices
    return np.asarray(pc.fill_null(codes, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
