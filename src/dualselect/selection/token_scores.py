"""Scores of the tokens of a data set: their likelihood under a model, their ranking, and masking by rank."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn

from dualselect.data.identity import TOKEN_WEIGHTS
from dualselect.distributed import sum_over_processes
from dualselect.gradients import IGNORED, Batch, Losses, per_token_nll
from dualselect.selection import measures
from dualselect.selection.pool import Pool

_ROW = "row"  # carries a sample's row in the data set through the collator


@dataclass(frozen=True)
class TokenPlaces:
    """The places of the n predicted tokens of a data set, row by row.

    A token is predicted if it is supervised and not the first of its row, which nothing precedes.

    Attributes:
        row: Row of each token, `(n,)`, int64.
        position: Position of each token in its row, `(n,)`, int64.
        flat: Position of each token in the concatenation of all labels, `(n,)`, int64.
    """

    row: NDArray[np.int64]
    position: NDArray[np.int64]
    flat: NDArray[np.int64]

    @classmethod
    def of(cls, data: Dataset) -> "TokenPlaces":
        """Return the places of the predicted tokens of a tokenised data set."""
        labels = _labels(data)
        lengths = labels.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        row = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(len(row)) - np.repeat(lengths.cumsum() - lengths, lengths)
        values = labels.flatten().to_numpy(zero_copy_only=False)
        flat = np.flatnonzero((values != IGNORED) & (position > 0))
        return cls(row[flat], position[flat], flat)

    def __len__(self) -> int:
        return len(self.flat)

    def counts(self, rows: int) -> NDArray[np.int64]:
        """Return how many predicted tokens each of `rows` rows has, `(rows,)`."""
        return np.bincount(self.row, minlength=rows)


def token_nll(pool: Pool, data: Dataset) -> Tensor:
    """Return the negative log-likelihood of every predicted token of a data set, in nats.

    Args:
        pool: Any pool of the run, whose model and batching are used.
        data: Tokenised samples with `input_ids` and `labels`.

    Returns:
        Shape `(n,)`, fp32, on the CPU, in the order of `TokenPlaces.of(data)`.
    """
    counts = torch.from_numpy(TokenPlaces.of(data).counts(len(data)))
    starts = counts.cumsum(0) - counts
    table = torch.zeros(int(counts.sum()))

    def collate(examples: list[Any]) -> Mapping[str, Any]:
        bare = [{name: value for name, value in example.items() if name != _ROW} for example in examples]
        return {**pool.collate(bare), _ROW: torch.tensor([example[_ROW] for example in examples])}

    def remember(model: nn.Module, batch: Batch) -> Losses:
        inputs = {name: value for name, value in batch.items() if name != _ROW}
        rows, nll = batch[_ROW].cpu(), per_token_nll(model, inputs).float()
        size = counts[rows]
        within = torch.arange(int(size.sum())) - (size.cumsum(0) - size).repeat_interleave(size)
        table[starts[rows].repeat_interleave(size) + within] = nll.cpu()
        owner = torch.arange(len(rows), device=nll.device).repeat_interleave(size.to(nll.device))
        total = nll.new_zeros(len(rows)).index_add(0, owner, nll)
        return Losses(total / size.to(nll.device), size.to(nll.device))

    samples = replace(pool, examples=_Numbered(data), ids=[str(row) for row in range(len(data))], collate=collate)
    samples.scan([measures.loss()], loss=remember, title="Scoring tokens", resumable=False)
    return sum_over_processes(table, next(iter(pool.params.values())).device)


def highest(score: Tensor, names: Sequence[int], places: TokenPlaces, count: int) -> NDArray[np.bool_]:
    """Return which `count` of n tokens score highest, over all rows together.

    Ties go to the lower name, then to the lower position, whatever the order of the rows. A score that is not a
    number counts as the lowest.

    Args:
        score: Scores of the tokens, shape `(n,)`.
        names: Integer for each row that identifies its sample.
        places: Places of the tokens.
        count: Number of tokens to choose.
    """
    name = np.asarray(names)[places.row]
    falling = -np.nan_to_num(score.double().numpy(), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    order = np.lexsort((places.position, name, falling))
    chosen = np.zeros(len(places), dtype=bool)
    chosen[order[:count]] = True
    return chosen


def without_tokens(data: Dataset, places: TokenPlaces, dropped: NDArray[np.bool_]) -> Dataset:
    """Return the data set with the labels of dropped tokens masked, without the rows that have none left.

    Args:
        data: Tokenised samples; all columns are kept.
        places: Places of the n predicted tokens.
        dropped: Whether to drop each of these tokens, `(n,)`.
    """
    labels = _labels(data)
    values = labels.flatten().to_numpy(zero_copy_only=False).copy()
    values[places.flat[dropped]] = IGNORED
    column = type(labels).from_arrays(_offsets(labels), pa.array(values, type=labels.type.value_type))
    table = data.with_format("arrow")[:]
    masked = Dataset(table.set_column(table.column_names.index("labels"), table.schema.field("labels"), column))
    left = np.bincount(places.row[~dropped], minlength=len(data))
    return masked.select(np.flatnonzero(left))


def with_token_weights(data: Dataset, places: TokenPlaces, weights: NDArray[np.float32]) -> Dataset:
    """Return the data set with a column `token_weights`: as long as the labels, 0 where no token is predicted.

    Args:
        data: Tokenised samples; all columns are kept.
        places: Places of the n predicted tokens.
        weights: Weight of each of these tokens, `(n,)`.
    """
    labels = _labels(data)
    values = np.zeros(len(labels.flatten()), dtype=np.float32)
    values[places.flat] = weights
    column = pa.ListArray.from_arrays(pa.array(_offsets(labels), pa.int32()), pa.array(values))
    return Dataset(data.with_format("arrow")[:].append_column(TOKEN_WEIGHTS, column))


class _Numbered(Sequence[Mapping[str, Any]]):
    """The rows of a data set, each with its number."""

    def __init__(self, data: Dataset) -> None:
        self._data = data.select_columns(["input_ids", "labels"])

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, row: Any) -> Any:
        return {**self._data[row], _ROW: row}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[row] for row in range(len(self)))


def _labels(data: Dataset) -> Any:
    """Return the labels of all rows as one Arrow list array."""
    column = data.select_columns(["labels"]).with_format("arrow")[:]["labels"]
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _offsets(labels: Any) -> Any:
    """Return the offset of each row in the flattened values, and the end of the last one."""
    lengths = labels.value_lengths().to_numpy(zero_copy_only=False)
    return pa.array(np.concatenate([[0], lengths.cumsum()]), type=labels.offsets.type)
