"""The files of a diagnostic's folder: which there are, what their columns mean, and how they are written and read.

Every table has a schema here and is checked against it when it is written, so that stages, figures and readers of other
programs agree. A `row` is a place in the table of the same set: row 3 of `embeddings-references.npy` is row 3 of
`references.parquet`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dualselect.errors import DataError
from dualselect.files import replacing

STAGES_FILE = "stages.json"
RESOURCES_FILE = "resources.json"  # counts, unique prompts and overlaps of the sets
PROJECTION_FILE = "projection.json"  # the sketch of the embeddings, and how far it distorts
HEATMAP_FILE = "heatmap.json"  # by strategy: chi2, dof, p_value, permutation_p_value, cramers_v
FIGURE_FILE = "figure"  # with .pdf, .svg and .png

TASK, REFERENCES, PROBE = "task", "references", "probe"
#: Strategy of the rollouts that use no references.
TASK_ONLY = "task-only"
WITHIN, ACROSS, DIFFERENCE = "within", "across", "difference"

_TEXT, _WHOLE, _REAL = pa.string(), pa.int32(), pa.float64()
_TURNS = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))
# A sample as it is trained on or measured, and its prompt's last message as text; `answer` may be null in references.
_SAMPLE = [("row", _WHOLE), ("id", _TEXT), ("prompt", _TEXT), ("turns", _TURNS), ("answer", _TURNS)]
_SAFETY = [*_SAMPLE, ("category", _TEXT), ("risk", _WHOLE)]

#: Schema of every table by its name; its file is `NAME.parquet`.
SCHEMAS: dict[str, pa.Schema] = {
    "tasks": pa.schema([*_SAMPLE, ("group", _TEXT), ("batch", _TEXT)]),
    "references": pa.schema(_SAFETY),
    "probe": pa.schema(_SAFETY),
    # Nats per supervised token, and the norm of the gradient in the metric; NaN where they are not finite, or the
    # sample has no supervised token.
    "embeddings-task": pa.schema([("row", _WHOLE), ("id", _TEXT), ("loss", _REAL), ("norm", _REAL)]),
    "embeddings-references": pa.schema([("row", _WHOLE), ("id", _TEXT), ("loss", _REAL), ("norm", _REAL)]),
    # One row for each reference that a strategy chose for a batch. `score` is the conflict of the reference with the
    # batch's direction, whatever the strategy chose by; `rank` is from 0.
    "traces": pa.schema(
        [
            *(("strategy", _TEXT), ("batch", _TEXT), ("group", _TEXT), ("reference", _WHOLE)),
            *(("id", _TEXT), ("category", _TEXT), ("score", _REAL), ("rank", _WHOLE)),
        ]
    ),
    # Mean Jaccard index of pairs of batches of one group ("within") or of two ("across"), of all groups (group "") or
    # with a batch of one; "difference" is within minus across. `expected`, `null_mean` and `null_std` are those of
    # random choices (for "difference": of permuted groups), `p_value` is two-sided. NaN where there is no pair.
    "overlap": pa.schema(
        [
            *(("strategy", _TEXT), ("scope", _TEXT), ("group", _TEXT), ("pairs", _WHOLE), ("jaccard", _REAL)),
            *(("expected", _REAL), ("p_value", _REAL), ("null_mean", _REAL), ("null_std", _REAL)),
        ]
    ),
    # `share` is that of the category among what a strategy chose for the group.
    "heatmap": pa.schema(
        [("strategy", _TEXT), ("group", _TEXT), ("category", _TEXT), ("count", _WHOLE), ("share", _REAL)]
    ),
    # See `Rollout`.
    "rollouts": pa.schema(
        [
            *(("strategy", _TEXT), ("correction", _TEXT), ("batch", _TEXT), ("group", _TEXT)),
            *((name, _REAL) for name in ("kl_before", "kl_after", "reduction", "loss_before", "loss_after")),
            *(("steps", _WHOLE), ("dot", _REAL), ("cosine", _REAL)),
        ]
    ),
    # Mean reduction with its 95% interval over batches; `wins` is the share of batches with a positive reduction.
    # `difference` is that to the leading strategy, paired by batch; null for the leading one.
    "reductions": pa.schema(
        [
            *(("strategy", _TEXT), ("correction", _TEXT), ("n", _WHOLE)),
            *((name, _REAL) for name in ("mean", "low", "high", "median", "p90", "wins")),
            *((name, _REAL) for name in ("difference", "difference_low", "difference_high", "p_value")),
        ]
    ),
}


class Embeddings(NamedTuple):
    """Sketched gradients of a set.

    Attributes:
        vectors: Shape `(N, k)`, fp32, not normalised, mapped from the file; a row of NaN has no gradient.
        table: Columns `row`, `id`, `loss` and `norm`.
    """

    vectors: NDArray[np.float32]
    table: pa.Table


@dataclass(frozen=True)
class Rollout:
    """A row of the table `rollouts`: a few steps on one batch of the task, and where they led.

    Attributes:
        strategy: What chose the references; `TASK_ONLY` where there were none.
        correction: How they were preserved; empty for `TASK_ONLY`.
        batch: Name of the batch.
        group: Its group.
        kl_before: KL(aligned model || model) on the probe in nats per token, after the task-only rollout of the batch;
            that of the start for `TASK_ONLY`.
        kl_after: The same after this rollout.
        reduction: `kl_before` - `kl_after`; None for `TASK_ONLY`.
        loss_before: Loss on the batch at the start, nats per token.
        loss_after: The same after this rollout.
        steps: Optimizer steps.
        dot: Mean over steps of the inner product of both gradients; None for `TASK_ONLY`.
        cosine: Mean of their cosine, likewise.
    """

    strategy: str
    correction: str
    batch: str
    group: str
    kl_before: float
    kl_after: float
    reduction: float | None
    loss_before: float
    loss_after: float
    steps: int
    dot: float | None
    cosine: float | None


def write_rollouts(folder: Path, rollouts: Sequence[Rollout]) -> None:
    """Write the table of rollouts, those of an unfinished stage too."""
    write_table(folder, "rollouts", [asdict(rollout) for rollout in rollouts])


def read_rollouts(folder: Path) -> list[Rollout]:
    """Return the rollouts so far; none where there is no table."""
    if not table_path(folder, "rollouts").is_file():
        return []
    return [Rollout(**row) for row in read_table(folder, "rollouts").to_pylist()]


def has_table(folder: Path, name: str) -> bool:
    """Return whether a diagnostic's folder has a table."""
    return table_path(folder, name).is_file()


def table_path(folder: Path, name: str) -> Path:
    """Return the file of a table."""
    return folder / f"{name}.parquet"


def write_table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]] | pa.Table) -> None:
    """Write a table of a diagnostic.

    Args:
        folder: Folder of the diagnostic.
        name: Name of the table, a key of `SCHEMAS`.
        rows: Its rows, or the table itself; columns in any order.
    """
    schema = SCHEMAS[name]
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema=schema)
    with replacing(table_path(folder, name)) as draft:
        pq.write_table(table.select(schema.names).cast(schema), draft, compression="zstd")


def read_table(folder: Path, name: str) -> pa.Table:
    """Return a table of a diagnostic.

    Raises:
        DataError: It is not there, not a Parquet file, or lacks a column.
    """
    path = table_path(folder, name)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the diagnostic again") from error
    missing = [column for column in SCHEMAS[name].names if column not in table.column_names]
    if missing:
        raise DataError(f"{path}: has no column '{missing[0]}'; run the diagnostic in a new folder")
    return table.select(SCHEMAS[name].names)


def write_embeddings(folder: Path, role: str, embeddings: Embeddings) -> None:
    """Write the embeddings of a set, `TASK` or `REFERENCES`."""
    with replacing(embeddings_path(folder, role)) as draft, draft.open("wb") as file:
        np.save(file, np.ascontiguousarray(embeddings.vectors, dtype=np.float32), allow_pickle=False)
    write_table(folder, f"embeddings-{role}", embeddings.table)


def read_embeddings(folder: Path, role: str) -> Embeddings:
    """Return the embeddings of a set, `TASK` or `REFERENCES`.

    Raises:
        DataError: They are not there, or cannot be read.
    """
    path = embeddings_path(folder, role)
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the diagnostic again") from error
    return Embeddings(vectors, read_table(folder, f"embeddings-{role}"))


def embeddings_path(folder: Path, role: str) -> Path:
    """Return the file of the embeddings of a set."""
    return folder / f"embeddings-{role}.npy"


def write_json(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write a JSON file of a diagnostic."""
    with replacing(folder / name) as draft:
        draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the content of a JSON file of a diagnostic; empty if there is no such file.

    Raises:
        DataError: It cannot be read.
    """
    path = folder / name
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); run the diagnostic in a new folder") from error
    return content
