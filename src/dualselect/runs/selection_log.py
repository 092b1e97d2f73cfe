"""The selection log: every candidate that was scored, kept or not, as Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dualselect.files import replacing

FOLDER = "selection"
MERGED_PARTS = 64  # small files of one flush each that are merged into one
ROWS_PER_PART = 100_000

# Columns that readers may rely on, null where a method lacks them; a method's own columns are added.
_COMMON = [
    ("step", pa.int32()),
    ("id", pa.string()),
    ("loss", pa.float32()),
    ("cosine", pa.float32()),
    ("score", pa.float32()),
    ("weight", pa.float32()),
    ("kept", pa.bool_()),
]
TASK_SCHEMA = pa.schema([*_COMMON, ("epoch", pa.float32()), ("tokens", pa.int32()), ("dropped_reason", pa.string())])
REFERENCE_SCHEMA = pa.schema(_COMMON)
CONFLICT_SCHEMA = pa.schema(
    [("step", pa.int32()), ("id", pa.string()), ("reference", pa.string()), ("cosine", pa.float32())]
)
_CONFLICTS = "conflicts.parquet"


class SelectionLog:
    """Writes the candidates of every optimizer step and the tables of methods into `<run folder>/selection/`.

    Task candidates go to `task-<first>-<last>.parquet`, named by the steps they span: a small file for each flush, of
    which `MERGED_PARTS` are merged into one, and those again once they contain `ROWS_PER_PART` rows. A table that a
    method records, such as a refresh, is one file `<table>-<step>.parquet`. `conflicts.parquet` contains cosines of
    single samples with single references, where they were measured. A step is the number of optimizer steps that were
    complete when its candidates were scored. Losses are nats per supervised token.

    Args:
        run_folder: Output folder of the run.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / FOLDER
        self._pending: list[pa.Table] = []
        self._small: list[tuple[Path, pa.Table]] = []  # parts of one flush each
        self._merged: tuple[Path, pa.Table] | None = None  # the last merged part, while it may still grow

    def add_tasks(self, step: int, epoch: float, ids: Sequence[str], **columns: Any) -> None:
        """Buffer the candidates of one step; each column has one value per candidate."""
        self._pending.append(_table(TASK_SCHEMA, step, ids, {"epoch": [epoch] * len(ids), **columns}))

    def add_table(self, name: str, step: int, ids: Sequence[str], **columns: Any) -> None:
        """Write a table of one step, such as the pool as it was scored at a refresh."""
        _write(_table(REFERENCE_SCHEMA, step, ids, columns), self.folder / f"{name}-{step:08d}.parquet")

    def add_conflicts(self, step: int, ids: Sequence[str], references: Sequence[str], cosine: Any) -> None:
        """Write cosines of samples with references, shape `(len(ids), len(references))`, replacing earlier ones."""
        columns = {
            "step": [step] * (len(ids) * len(references)),
            "id": [name for name in ids for _ in references],
            "reference": list(references) * len(ids),
            "cosine": _plain(cosine.flatten()),
        }
        _write(pa.Table.from_pydict(columns, schema=CONFLICT_SCHEMA), self.folder / _CONFLICTS)

    def flush(self) -> None:
        """Write what is pending as a small part, and merge small parts from time to time."""
        if not self._pending:
            return
        rows = _concatenated(self._pending)
        self._pending = []
        path = self.folder / _part_name(rows)
        _write(rows, path)
        self._small.append((path, rows))
        if len(self._small) >= MERGED_PARTS:
            self._merge()

    def _merge(self) -> None:
        parts = [*([self._merged] if self._merged else []), *self._small]
        table = _concatenated([rows for _, rows in parts])
        path = self.folder / _part_name(table)
        _write(table, path)
        # After a crash here readers leave out parts within the span of another.
        for before, _ in parts:
            if before != path:
                before.unlink()
        self._small = []
        self._merged = (path, table) if table.num_rows < ROWS_PER_PART else None

    def truncate(self, step: int) -> None:
        """Remove what was logged at `step` or later, which a run that continues from there will log again."""
        self._pending, self._small, self._merged = [], [], None
        parts = sorted(self.folder.glob("task-*.parquet"))
        for path in set(parts) - set(_outermost(parts)):
            path.unlink()
        for path in sorted(self.folder.glob("*.parquet")):
            table = pq.read_table(path)
            earlier = table.filter(pc.less(table["step"], step))
            if earlier.num_rows == table.num_rows:
                continue
            if earlier.num_rows:
                _write(earlier, self.folder / _part_name(earlier))
            path.unlink()

    @staticmethod
    def read(run_folder: Path) -> tuple[pa.Table, pa.Table]:
        """Return the logged task candidates and references of a run, in the order of their steps."""
        folder = run_folder / FOLDER
        return _read(folder, "task-*.parquet", TASK_SCHEMA), _read(folder, "references-*.parquet", REFERENCE_SCHEMA)

    @staticmethod
    def read_conflicts(run_folder: Path) -> pa.Table:
        """Return the cosines of samples with references, a row for every pair; no rows where none were measured."""
        return _read(run_folder / FOLDER, _CONFLICTS, CONFLICT_SCHEMA)


def _table(schema: pa.Schema, step: int, ids: Sequence[str], columns: dict[str, Any]) -> pa.Table:
    values = {"step": [step] * len(ids), "id": list(ids), **{name: _plain(value) for name, value in columns.items()}}
    known = {name: pa.array(value, schema.field(name).type) for name, value in values.items() if name in schema.names}
    return pa.table(known | {name: pa.array(value) for name, value in values.items() if name not in known})


def _plain(values: Any) -> Any:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else values


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default")


def _part_name(table: pa.Table) -> str:
    return f"task-{table['step'][0].as_py():08d}-{table['step'][-1].as_py():08d}.parquet"


def _write(table: pa.Table, path: Path) -> None:
    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd")


def _read(folder: Path, pattern: str, schema: pa.Schema) -> pa.Table:
    paths = _outermost(sorted(folder.glob(pattern)))
    found = _concatenated([schema.empty_table(), *(pq.read_table(path) for path in paths)])
    own = [name for name in found.column_names if name not in schema.names]
    return found.select([*schema.names, *own])


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Leave out parts that were merged into another part that exists."""
    kept: list[Path] = []
    last = -1
    for path in sorted(paths, key=lambda path: (_span(path)[0], -_span(path)[1])):
        first, end = _span(path)
        if first < 0 or end > last:
            kept.append(path)
            last = max(last, end)
    return kept


def _span(path: Path) -> tuple[int, int]:
    """Return the steps that a part of task candidates spans, (-1, -1) for other tables."""
    _, *steps = path.stem.split("-")
    return (int(steps[0]), int(steps[1])) if len(steps) == 2 else (-1, -1)
