"""The selection log: every candidate that was scored, kept or not, as Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dualselect.files import replacing

FOLDER = "selection"
ROWS_PER_PART = 100_000

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
    """Writes the candidates of every batch and of every refresh into `<run folder>/selection/`.

    Task candidates go to `task-<first>-<last>.parquet`, named by the steps they span; the last part grows until it
    holds `ROWS_PER_PART` rows. Each refresh is one file `references-<step>.parquet`. `conflicts.parquet` holds
    cosines of single samples with single references, where they were measured. A step is the number of optimizer
    steps that were complete when its candidates were scored. Losses are nats per supervised token.

    Args:
        run_folder: The run's output folder.
    """

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / FOLDER
        self._pending: list[pa.RecordBatch] = []
        self._part: pa.Table | None = None  # what the last, still growing file holds
        self._part_file: Path | None = None

    def add_tasks(
        self,
        step: int,
        epoch: float,
        ids: Sequence[str],
        *,
        loss: Any,
        cosine: Any,
        score: Any,
        weight: Any,
        kept: Any,
        tokens: Any,
        dropped_reason: Sequence[str | None],
    ) -> None:
        """Remember the candidates of one batch; each column has one value a candidate, on the CPU."""
        columns = _columns(step, ids, loss, cosine, score, weight, kept)
        columns |= {
            "epoch": [epoch] * len(ids),
            "tokens": _plain(tokens),
            "dropped_reason": pa.array(dropped_reason, pa.string()),
        }
        self._pending.append(pa.RecordBatch.from_pydict(columns, schema=TASK_SCHEMA))

    def add_references(
        self, step: int, ids: Sequence[str], *, loss: Any, cosine: Any, score: Any, weight: Any, kept: Any
    ) -> None:
        """Write the whole pool as it was scored at a refresh."""
        columns = _columns(step, ids, loss, cosine, score, weight, kept)
        table = pa.Table.from_pydict(columns, schema=REFERENCE_SCHEMA)
        _write(table, self.folder / f"references-{step:08d}.parquet")

    def add_conflicts(self, step: int, ids: Sequence[str], references: Sequence[str], cosine: Any) -> None:
        """Write cosines of samples with references, shape `(len(ids), len(references))`, in place of earlier ones."""
        columns = {
            "step": [step] * (len(ids) * len(references)),
            "id": [name for name in ids for _ in references],
            "reference": list(references) * len(ids),
            "cosine": _plain(cosine.flatten()),
        }
        _write(pa.Table.from_pydict(columns, schema=CONFLICT_SCHEMA), self.folder / _CONFLICTS)

    def flush(self) -> None:
        """Write what is pending into the growing part."""
        if not self._pending:
            return
        rows = pa.Table.from_batches(self._pending)
        self._pending = []
        part = rows if self._part is None else pa.concat_tables([self._part, rows])
        self._replace_part(part)
        if part.num_rows >= ROWS_PER_PART:
            self._part = self._part_file = None

    def _replace_part(self, part: pa.Table) -> None:
        before, after = self._part_file, self.folder / _part_name(part)
        _write(part, after)
        # The name tells the last step, so a part that grew has a new one.
        if before is not None and before != after:
            before.unlink()
        self._part, self._part_file = part, after

    def truncate(self, step: int) -> None:
        """Forget all that was logged at `step` or later, which a run that goes on from there will log again."""
        self._pending, self._part, self._part_file = [], None, None
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


def _columns(
    step: int, ids: Sequence[str], loss: Any, cosine: Any, score: Any, weight: Any, kept: Any
) -> dict[str, Any]:
    values = {"loss": loss, "cosine": cosine, "score": score, "weight": weight, "kept": kept}
    return {"step": [step] * len(ids), "id": list(ids), **{name: _plain(value) for name, value in values.items()}}


def _plain(values: Any) -> Any:
    return values.numpy() if hasattr(values, "numpy") else values


def _part_name(table: pa.Table) -> str:
    return f"task-{table['step'][0].as_py():08d}-{table['step'][-1].as_py():08d}.parquet"


def _write(table: pa.Table, path: Path) -> None:
    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd")


def _read(folder: Path, pattern: str, schema: pa.Schema) -> pa.Table:
    tables = [pq.read_table(path, schema=schema) for path in sorted(folder.glob(pattern))]
    return pa.concat_tables(tables) if tables else schema.empty_table()
