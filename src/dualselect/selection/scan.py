"""Scans: one pass over a data set of any size that measures every sample.

Batches are made of samples of similar length, as many as fill a budget of tokens, the longest first; with several
processes each takes every n-th batch. Memory is that of one batch. What is measured is saved as the scan
proceeds, so that one that was interrupted continues where it stopped and ends with the same result, bit for bit.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from dualselect.distributed import (
    from_all_processes,
    from_main_process,
    is_sharded,
    local,
    max_over_processes,
    rank,
    sum_over_processes,
    world_size,
)
from dualselect.files import replacing
from dualselect.gradients import Batch, Direction, Losses, Metric, Parameters, PerSampleGradients, Sketch
from dualselect.models.modes import eval_mode

Loss = Callable[[nn.Module, Batch], Losses]
Measure = Callable[[Losses, PerSampleGradients | None], Mapping[str, Tensor]]
Columns = dict[str, Tensor]

_BATCHES_PER_PART = 64
_SECONDS_PER_PART = 60.0
_ROW = "row"


class Scannable(Protocol):
    """What a scan reads of a `Pool`, which explains the attributes."""

    ids: Sequence[str]
    lengths: Tensor
    model: nn.Module
    params: Parameters
    tokens_per_batch: int
    folder: Path | None

    def __len__(self) -> int: ...

    @property
    def device(self) -> torch.device:
        """Where the model is."""

    def announced(self, batches: Sequence[list[int]], title: str) -> Iterable[list[int]]:
        """Return the batches with a progress bar."""

    def measured(
        self, rows: list[int], measures: Sequence[Measure], loss: Loss
    ) -> list[tuple[list[int], Mapping[str, Tensor]]]:
        """Return the columns of the rows, in as many pieces as memory asks for."""


class Scanned(dict[str, Tensor]):
    """The columns of a scan, `(N, ...)` each, on the CPU, in the data set's order.

    A sample whose loss, or any measured value, is not finite has NaN in every column of floating-point numbers.
    """

    def __init__(self, columns: Mapping[str, Tensor], folder: Path | None = None) -> None:
        super().__init__(columns)
        self._folder = folder

    def done(self) -> None:
        """Delete what was saved to continue an interrupted scan; call it once the columns have been used."""
        if self._folder is None:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # the folder has another scan's parts
            self._folder.parent.rmdir()
            self._folder.parent.parent.rmdir()


class Batches(Sequence[list[int]]):
    """Batches of rows, kept in arrays, so that a pool of any size takes 8 bytes a sample.

    Args:
        rows: Rows, those of a batch beside each other, `(M,)` int64.
        spans: Places in `rows` where each batch begins and ends, `(B, 2)` int64.
    """

    def __init__(self, rows: Tensor, spans: Tensor) -> None:
        self.rows, self.spans = rows, spans

    def __len__(self) -> int:
        return len(self.spans)

    @overload
    def __getitem__(self, which: int) -> list[int]: ...

    @overload
    def __getitem__(self, which: slice) -> "Batches": ...

    def __getitem__(self, which: int | slice) -> "list[int] | Batches":
        if isinstance(which, slice):
            return Batches(self.rows, self.spans[which])
        if not -len(self) <= which < len(self):
            raise IndexError(which)
        begin, end = self.spans[which].tolist()
        rows: list[int] = self.rows[begin:end].tolist()
        return rows

    def without(self, is_done: Tensor) -> "Batches":
        """Return the batches of which a row is not done; `is_done` has a bool for every row of the data set."""
        done = torch.nn.functional.pad(is_done[self.rows].long().cumsum(0), (1, 0))
        begin, end = self.spans.unbind(1)
        return Batches(self.rows, self.spans[done[end] - done[begin] < end - begin])

    def followed_by(self, others: "Batches") -> "Batches":
        """Return these batches and then others of the same rows."""
        return Batches(self.rows, torch.cat([self.spans, others.spans]))


def batches_of(rows: Tensor, lengths: Tensor, tokens_per_batch: int) -> Batches:
    """Return the rows in batches of similar length, the longest first.

    Args:
        rows: Rows of the samples in the data set, `(M,)` int64, ascending.
        lengths: Tokens of every sample of the data set, `(N,)` int64.
        tokens_per_batch: Most tokens in a batch, padding included; a single sample may have more.
    """
    order = rows[lengths[rows].argsort(descending=True, stable=True)]
    # No later sample of a batch is longer than its first one.
    rooms = (tokens_per_batch // lengths[order].clamp_min(1)).clamp_min(1).numpy()
    begins = [0]
    while begins[-1] < len(order):
        begins.append(begins[-1] + int(rooms[begins[-1]]))
    edges = torch.tensor(begins).clamp_max(len(order))
    return Batches(order, torch.stack([edges[:-1], edges[1:]], dim=1))


def shard(batches: Batches) -> Batches:
    """Return this process's share of the batches."""
    return batches[rank() :: world_size()]


def in_step(mine: Batches, batches: Batches, steps: int) -> Batches:
    """Return this process's batches and after them its part in passes that other processes make of a sharded model.

    Args:
        mine: This process's batches.
        batches: All batches; the last one, which is the smallest, stands in, and its result does not count.
        steps: Number of batches of the process that has most.
    """
    return mine.followed_by(Batches(batches.rows, batches.spans[-1:].repeat(steps - len(mine), 1)))


def scan(
    pool: Scannable, measures: Sequence[Measure], loss: Loss, title: str, resumable: bool, rows: Tensor | None = None
) -> Scanned:
    """Return what `measures` say of the samples of `pool`; see `Pool.scan`."""
    plan = batches_of(torch.arange(len(pool)) if rows is None else rows, pool.lengths, pool.tokens_per_batch)
    folder = _folder_of(pool, plan, measures, loss, title) if resumable else None
    parts = None if folder is None else Parts(folder / f"rank-{rank():04d}")
    found = _Found({} if parts is None else parts.read(), len(pool))
    waiting = shard(plan).without(found.is_there)
    steps = max_over_processes(len(waiting), pool.device) if is_sharded(pool.model) else len(waiting)
    due = time.monotonic() + _SECONDS_PER_PART
    with eval_mode(pool.model, gradients=True):
        for count, batch in enumerate(pool.announced(in_step(waiting, plan, steps), title), 1):
            for piece, columns in pool.measured(batch, measures, loss):
                if count <= len(waiting):
                    found.add(piece, columns)
            if count % _BATCHES_PER_PART == 0 or time.monotonic() > due:
                _set_aside(found, parts)
                due = time.monotonic() + _SECONDS_PER_PART
    _set_aside(found, parts)
    columns = _over_processes(found, pool.device)
    return Scanned(columns if rows is None else _only(columns, rows), folder)


class _Found:
    """The columns of one process, filled batch by batch; new values stay on the device until they are set aside."""

    def __init__(self, columns: Columns, size: int) -> None:
        self.size = size
        self.table: Columns = {}
        self.is_there = torch.zeros(size, dtype=torch.bool)
        self._new: list[tuple[list[int], Mapping[str, Tensor]]] = []
        if columns:
            self._put(columns.pop(_ROW), columns)

    def add(self, rows: list[int], columns: Mapping[str, Tensor]) -> None:
        """Add the columns of some rows."""
        self._new.append((rows, columns))

    def collect(self) -> Columns:
        """Move new values to the CPU and return them, with the rows as a column; empty if there are none."""
        new, self._new = self._new, []
        if not new:
            return {}
        rows = torch.tensor([row for batch, _ in new for row in batch])
        columns = {name: torch.cat([part[name] for _, part in new]).cpu() for name in new[0][1]}
        self._put(rows, columns)
        return {_ROW: rows, **columns}

    def _put(self, rows: Tensor, columns: Columns) -> None:
        for name, values in columns.items():
            if name not in self.table:
                self.table[name] = values.new_zeros(self.size, *values.shape[1:])
            self.table[name][rows] = values
        self.is_there[rows] = True


def _set_aside(found: _Found, parts: "Parts | None") -> None:
    columns = found.collect()
    if parts is not None and columns:
        parts.write(columns)


def _over_processes(found: _Found, device: torch.device) -> Columns:
    # The main process has the longest batch, so it always knows the columns; another one may have no batch.
    known = {name: (values.shape, values.dtype) for name, values in found.table.items()}
    columns = {}
    for name, (shape, dtype) in from_main_process(known).items():
        values = found.table[name] if name in found.table else torch.zeros(shape, dtype=dtype)
        columns[name] = sum_over_processes(values, device)
    return columns


def _only(columns: Columns, rows: Tensor) -> Columns:
    """Return the columns with NaN in the rows that were not measured."""
    is_other = torch.ones(len(next(iter(columns.values()))), dtype=torch.bool)
    is_other[rows] = False
    for values in columns.values():
        if values.is_floating_point():
            values[is_other] = torch.nan
    return columns


class Parts:
    """What one process has measured so far, as Parquet files in a folder of its own.

    Args:
        folder: Folder of the files, created with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, columns: Columns) -> None:
        """Add a part: columns of shape `(n, ...)`, one of them the rows."""
        path = self.folder / f"part-{len(self._paths()):06d}.parquet"
        shapes = {name: list(values.shape[1:]) for name, values in columns.items()}
        table = pa.table({name: _to_arrow(values) for name, values in columns.items()})
        with replacing(path) as draft:
            pq.write_table(table.replace_schema_metadata({"shapes": json.dumps(shapes)}), draft)

    def read(self) -> Columns:
        """Return the columns of all parts together; empty if there are none."""
        found = [_from_arrow(pq.read_table(path)) for path in self._paths()]
        return {name: torch.cat([part[name] for part in found]) for name in (found[0] if found else ())}

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))


def _to_arrow(values: Tensor) -> pa.Array:
    flat = pa.array(values.reshape(-1).numpy())
    width = values[0].numel()
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def _from_arrow(table: pa.Table) -> Columns:
    shapes = json.loads(table.schema.metadata[b"shapes"])
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        values = column if not shapes[name] else column.flatten()
        columns[name] = torch.from_numpy(np.array(values)).reshape(-1, *shapes[name])
    return columns


def _folder_of(pool: Scannable, plan: Batches, measures: Sequence[Measure], loss: Loss, title: str) -> Path | None:
    """Return the store for the parts of a scan, and delete parts of scans of the same title under other weights."""
    key = None if pool.folder is None else fingerprint(pool, plan, measures, loss)
    if pool.folder is None or key is None:
        return None
    folder = pool.folder / re.sub(r"\W+", "-", title.lower()).strip("-") / key
    for other in folder.parent.glob("*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def fingerprint(pool: Scannable, plan: Batches, measures: Sequence[Measure], loss: Loss) -> str | None:
    """Return a name for what a scan's result depends on, or None if a measure has no `key`.

    These are the bytes of the trained parameters, the samples and how they are batched, the name of the loss, and the
    measures with their directions. What stays the same throughout a run, such as the frozen weights, is left out.
    """
    keys = [getattr(measure, "key", None) for measure in measures]
    if None in keys:
        return None
    digest = hashlib.sha256()
    digest.update(json.dumps([keys, _name_of(loss), world_size()]).encode())
    for name in pool.ids:
        digest.update(name.encode() + b"\n")
    for values in (pool.lengths, plan.rows, plan.spans):
        digest.update(_bytes_of(values))
    for name, param in pool.params.items():
        digest.update(name.encode())
        digest.update(_bytes_of(local(param)))
    # Of sharded parameters and directions every process has read its part.
    return hashlib.sha256(b"".join(from_all_processes(digest.digest()))).hexdigest()[:32]


def _name_of(loss: Loss) -> str:
    """Return the name of a loss, without the arguments that a `partial` binds."""
    function: Any = getattr(loss, "func", loss)
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def digest_of(value: Direction | Metric | Sketch | None) -> str:
    """Return a short hash of the numbers that a direction, a metric or a sketch consists of."""
    digest = hashlib.sha256(type(value).__name__.encode())
    for part in _tensors_of(value):
        digest.update(_bytes_of(part))
    return digest.hexdigest()[:32]


def _tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Direction):
        yield value.vector
    elif isinstance(value, int | float):
        yield torch.tensor(value)
    elif hasattr(value, "__dict__"):
        for part in vars(value).values():
            yield from _tensors_of(part)


def _bytes_of(values: Tensor) -> memoryview:
    return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
