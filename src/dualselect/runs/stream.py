"""The files of a stream of tasks: `stream.json`, the matrix of scores and the measures that follow from it.

A stage is a place in the stream: stage i of T has trained on task i, stage 0 is the model before the first task. The
matrix contains the score on every task after every stage, and beside them the safety suites, the cross-entropy on
neutral text and the scores of models that were trained on one task alone. Every value behind it is a row of the tidy
table beside it (`results.parquet`, see `runs/values.py`), whose column `stage` is a `stage_name` and whose suite of a
task is its `task_suite`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from dualselect.errors import DataError
from dualselect.files import replacing
from dualselect.runs.results import START

STREAM_FILE = "stream.json"
MATRIX_FILE = "matrix.parquet"
MEASURES_FILE = "measures.parquet"

#: What a row of the matrix tells of: a task of the stream after a stage, a task learned alone from the start, a suite
#: of the user's (safety and the like) after a stage, or neutral text after a stage.
RowKind = Literal["task", "single", "suite", "neutral"]

#: Suite of the cross-entropy on neutral text.
NEUTRAL = "neutral-text"

MATRIX = pa.schema(
    [
        ("method", pa.string()),  # its label; `start` for the model before the first task
        ("seed", pa.int64()),  # of training; null for the start, and for the mean over all seeds
        ("stage", pa.int32()),  # from 1; 0 for the start; of a task learned alone, its place in the stream
        ("kind", pa.string()),  # a `RowKind`
        ("task", pa.string()),  # name of the task, or of the suite
        ("metric", pa.string()),  # name of the metric
        ("title", pa.string()),  # title of the metric
        ("better", pa.string()),  # higher, lower or neither; always higher for tasks
        ("unit", pa.string()),  # share, nats or score
        ("n", pa.int32()),  # prompts
        ("value", pa.float64()),  # mean over the prompts; null where none has a value
        ("low", pa.float64()),  # ends of its interval over the prompts; null where there is none
        ("high", pa.float64()),
    ]
)

MEASURES = pa.schema(
    [
        ("method", pa.string()),
        ("measure", pa.string()),  # average, backward, forward or forgetting; `last` and `change` of a suite
        ("suite", pa.string()),  # null for the measures of the tasks
        ("metric", pa.string()),  # of the suite
        ("title", pa.string()),
        ("better", pa.string()),  # as in the matrix
        ("unit", pa.string()),
        ("other", pa.string()),  # method that the value is a difference from; null for a value of its own
        ("value", pa.float64()),
        ("low", pa.float64()),  # ends of its interval over prompts and seeds; null where there is none
        ("high", pa.float64()),
        ("p_value", pa.float64()),  # of no difference, after Holm's correction; null for a value of its own
        ("seeds", pa.int32()),
        ("n", pa.int32()),  # prompts
    ]
)


@dataclass(frozen=True)
class StreamTask:
    """A task of the stream.

    Attributes:
        name: Name of the task; names a folder.
        task: Source of its training data.
        test: Source of its test data.
        metric: Name of the metric that is its score.
    """

    name: str
    task: str
    test: str
    metric: str = ""


@dataclass(frozen=True)
class StreamCell:
    """A method under a seed, and how far it has come.

    Attributes:
        method: Label of the method.
        seed: Seed of training.
        status: `done` once all stages are.
        folder: Its folder, relative to that of the stream.
        done: Names of the folders of the stages that are trained and evaluated, in order.
        error: Cause of a failure, in one line.
        notes: What differs from what was asked for, such as a first stage without a memory.
    """

    method: str
    seed: int
    status: Literal["done", "failed", "missing"]
    folder: str
    done: tuple[str, ...] = ()
    error: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stream:
    """All that `stream.json` tells.

    Attributes:
        tasks: Tasks in their order.
        methods: Labels of the methods in their order.
        seeds: Seeds of training.
        baseline: Label of the method that others are compared with; None for none.
        memory: Settings of the memory: its size, policy and number of safe answers.
        suites: Names of the suites that were measured besides the tasks.
        cells: One for each method and seed.
    """

    tasks: tuple[StreamTask, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    baseline: str | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)
    suites: tuple[str, ...] = ()
    cells: tuple[StreamCell, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the tasks in their order."""
        return [task.name for task in self.tasks]


@dataclass(frozen=True)
class StreamTables:
    """What a stream came to.

    Attributes:
        stream: Content of `stream.json`.
        matrix: Rows of `MATRIX`.
        measures: Rows of `MEASURES`.
    """

    stream: Stream
    matrix: list[dict[str, Any]]
    measures: list[dict[str, Any]]


def task_suite(task: str) -> str:
    """Return the name of the suite that measures a task."""
    return f"task-{task}"


def stage_name(stage: int, *, is_single: bool = False) -> str:
    """Return what the tidy table calls a stage: `0` for the start, `single-2` for the second task learned alone."""
    return f"single-{stage}" if is_single else str(stage)


def is_stream_folder(folder: Path) -> bool:
    """Return whether a folder contains a stream of tasks."""
    return (folder / STREAM_FILE).is_file()


def write_stream(stream: Stream, folder: Path) -> None:
    """Write `stream.json` into a folder."""
    with replacing(folder / STREAM_FILE) as draft:
        draft.write_text(json.dumps(asdict(stream), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_stream(folder: Path) -> Stream:
    """Return what the `stream.json` of a folder tells.

    Raises:
        DataError: It is missing or cannot be used.
    """
    path = folder / STREAM_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tasks = tuple(StreamTask(**task) for task in content.pop("tasks"))
        cells = tuple(_cell(**cell) for cell in content.pop("cells"))
        for name in ("methods", "seeds", "suites"):
            content[name] = tuple(content[name])
        return Stream(tasks=tasks, cells=cells, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not a stream ({error!r}); write it again with `dualselect continual`") from error


def write_matrix(rows: Iterable[Mapping[str, Any]], folder: Path) -> pa.Table:
    """Write rows of `MATRIX` into a folder and return them as a table; what a row does not name is null."""
    return _write(rows, MATRIX, folder / MATRIX_FILE)


def read_matrix(folder: Path) -> pa.Table:
    """Return the rows of `MATRIX` in a folder.

    Raises:
        DataError: They are missing or cannot be read.
    """
    return _read(folder / MATRIX_FILE, MATRIX)


def write_measures(rows: Iterable[Mapping[str, Any]], folder: Path) -> pa.Table:
    """Write rows of `MEASURES` into a folder and return them as a table; what a row does not name is null."""
    return _write(rows, MEASURES, folder / MEASURES_FILE)


def read_measures(folder: Path) -> pa.Table:
    """Return the rows of `MEASURES` in a folder.

    Raises:
        DataError: They are missing or cannot be read.
    """
    return _read(folder / MEASURES_FILE, MEASURES)


def read_stream_tables(folder: Path) -> StreamTables:
    """Return what a stream's folder tells.

    Raises:
        DataError: `stream.json` or one of the tables is missing or cannot be used.
    """
    return StreamTables(read_stream(folder), read_matrix(folder).to_pylist(), read_measures(folder).to_pylist())


def start_rows(matrix: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of the model before the first task."""
    return [row for row in matrix.to_pylist() if row["method"] == START]


def _cell(done: Iterable[str], notes: Iterable[str], **others: Any) -> StreamCell:
    return StreamCell(done=tuple(done), notes=tuple(notes), **others)


def _write(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, path: Path) -> pa.Table:
    rows = list(rows)
    columns = {name: [row.get(name) for row in rows] for name in schema.names}
    table = pa.Table.from_pydict(columns, schema=schema)
    with replacing(path) as draft:
        pq.write_table(table, draft, compression="zstd")
    return table


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(path, columns=schema.names).cast(schema)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); write it again with `dualselect continual`") from error
