"""Columns of a data set as arrays: a number takes 8 bytes there, and some 40 in a Python list."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

Integers: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

_CHUNK = 4096  # samples held at once


class Ids(Sequence[str]):
    """Names of samples, in one Arrow array; equal to any sequence of the same names.

    Args:
        names: The names; those of an Arrow array are not copied.
    """

    def __init__(self, names: Iterable[str] | pa.Array) -> None:
        array = names if isinstance(names, pa.Array) else pa.array(names, pa.large_string())
        self._array = array.cast(pa.large_string())

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            names: list[str] = self._array[place].to_pylist()
            return names
        name: str = self._array[int(place)].as_py()
        return name

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _CHUNK):
            yield from self._array[start : start + _CHUNK].to_pylist()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(own == theirs for own, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ids({list(self)})"

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return self._array if type is None else self._array.cast(type)

    def take(self, places: Integers) -> "Ids":
        """Return the names at some places, `(M,)`."""
        return Ids(self._array.take(pa.array(places)))

    @classmethod
    def joined(cls, parts: Iterable[Sequence[str]]) -> "Ids":
        """Return the names of several sequences, one after the other."""
        arrays = [cls(part)._array if not isinstance(part, Ids) else part._array for part in parts]
        return cls(pa.concat_arrays(arrays) if arrays else [])


def column_of(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Return a narrow column, such as ids or numbers, in the data set's order."""
    return dataset.select_columns([name]).with_format("arrow")[:][name]


def integers(dataset: Dataset, name: str) -> Integers:
    """Return a column of whole numbers, `(N,)` int64."""
    return np.asarray(column_of(dataset, name).to_numpy(), dtype=np.int64)


def list_lengths(dataset: Dataset, name: str) -> Integers:
    """Return the length of every list in a column, such as the tokens of every sample, `(N,)` int64.

    The lists are read a chunk at a time, and none of them into Python.
    """
    chunks = dataset.select_columns([name]).with_format("arrow").iter(batch_size=_CHUNK)
    lengths = [pc.list_value_length(chunk[name]).to_numpy() for chunk in chunks]
    return np.concatenate(lengths).astype(np.int64) if lengths else np.zeros(0, dtype=np.int64)


def category_numbers(dataset: Dataset) -> Integers | None:
    """Return the number of each sample's category, `(N,)` int64, -1 where it has none; None without any category."""
    if "category" not in dataset.column_names:
        return None
    column = column_of(dataset, "category")
    if pa.types.is_nested(column.type) or column.null_count == len(column):
        return None
    codes = pc.dictionary_encode(column).combine_chunks().indices
    return np.asarray(pc.fill_null(codes, -1).to_numpy(zero_copy_only=False), dtype=np.int64)
