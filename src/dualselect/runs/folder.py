"""What a run folder or a compare folder holds, read leniently: what is not there or not readable becomes a note."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from dualselect.errors import DataError, one_line
from dualselect.runs.metrics import FILE as METRICS_FILE
from dualselect.runs.metrics import read_metrics
from dualselect.runs.provenance import CONFIG_FILE, PROVENANCE_FILE
from dualselect.runs.results import FOLDER as EVALUATION
from dualselect.runs.results import SuiteResult
from dualselect.runs.samples import FILE as SAMPLES_FILE
from dualselect.runs.samples import sample_categories
from dualselect.runs.selection_log import FOLDER as SELECTION
from dualselect.runs.selection_log import SelectionLog

COMPARE_FILE = "compare.json"
ESTIMATES_FILE = "estimates.parquet"
START = "start"

_Content = TypeVar("_Content")


@dataclass
class RunFolder:
    """One run as it lies on the disk.

    Attributes:
        path: the folder.
        config: every setting; empty where unknown.
        provenance: what the run was made from; empty where unknown.
        metrics: the log events.
        tasks: the logged task candidates, None without a log.
        references: the logged references, None without a log.
        conflicts: cosines of samples with references, None where they were not measured.
        categories: of the samples in these logs, by role and id, as far as they are known.
        results: the evaluation results.
        notes: what is not there or could not be read, one line each.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    tasks: pa.Table | None = None
    references: pa.Table | None = None
    conflicts: pa.Table | None = None
    categories: dict[tuple[str, str], str] = field(default_factory=dict)
    results: list[SuiteResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing that a run leaves behind is there."""
        return not (self.config or self.provenance or self.metrics or self.results or self.tasks or self.references)

    @property
    def method(self) -> str:
        """The method, `this run` where it is unknown."""
        return str(self.config.get("method") or "this run")


@dataclass(frozen=True)
class Cell:
    """One method under one seed: whether it is done, and its run if it is."""

    method: str
    seed: int
    status: str
    error: str
    seconds: float | None
    run: RunFolder | None


@dataclass
class CompareFolder:
    """A grid of methods and seeds as it lies on the disk.

    Attributes:
        path: the folder.
        methods: in the order of the grid.
        seeds: of the grid.
        baseline: the method that the others are compared with.
        cells: the grid's cells.
        start: results of the aligned start.
        estimates: rows of the table of estimates.
        notes: what is not there or could not be read.
    """

    path: Path
    methods: list[str]
    seeds: list[int]
    baseline: str
    cells: list[Cell]
    start: list[SuiteResult]
    estimates: list[dict[str, Any]]
    notes: list[str]

    @property
    def runs(self) -> list[tuple[Cell, RunFolder]]:
        """The cells that have a run, with it."""
        return [(cell, cell.run) for cell in self.cells if cell.run is not None]


def is_compare_folder(folder: Path) -> bool:
    """Return whether `folder` holds a comparison of methods."""
    return (folder / COMPARE_FILE).is_file()


def read_run(folder: Path) -> RunFolder:
    """Return what a run folder holds.

    Raises:
        DataError: It holds nothing that a run leaves behind.
    """
    run = _read_run(folder)
    if run.is_empty:
        raise DataError(
            f"{folder}: holds no run and no comparison; give the output_dir of `dualselect train` or of "
            "`dualselect compare`"
        )
    return run


def read_comparison(folder: Path) -> CompareFolder:
    """Return what a compare folder holds.

    Raises:
        DataError: Its `compare.json` can't be used.
    """
    path = folder / COMPARE_FILE
    notes: list[str] = []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cells = [_read_cell(folder, cell) for cell in content["cells"]]
        methods = [str(method) for method in content["methods"]]
        seeds, baseline = [int(seed) for seed in content["seeds"]], str(content["baseline"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no comparison ({error!r}); make it anew with `dualselect compare`") from error
    start = _results(folder / START, notes)
    if not start:
        notes.append(f"{START}/{EVALUATION}/: the aligned start was not evaluated")
    estimates = _attempt(folder / ESTIMATES_FILE, lambda file: pq.read_table(file).to_pylist(), notes) or []
    return CompareFolder(folder, methods, seeds, baseline, cells, start, estimates, notes)


def _read_cell(folder: Path, cell: dict[str, Any]) -> Cell:
    place = folder / str(cell.get("folder") or f"cells/{cell['method']}-seed{cell['seed']}")
    run = _read_run(place) if cell["status"] == "done" and place.is_dir() else None
    return Cell(
        method=str(cell["method"]),
        seed=int(cell["seed"]),
        status=str(cell["status"]),
        error=str(cell.get("error") or ""),
        seconds=cell.get("seconds"),
        run=None if run is None or run.is_empty else run,
    )


def _read_run(folder: Path) -> RunFolder:
    run = RunFolder(folder)
    run.config = _mapping(folder / CONFIG_FILE, yaml.safe_load, run.notes)
    run.provenance = _mapping(folder / PROVENANCE_FILE, json.loads, run.notes)
    run.metrics = _attempt(folder / METRICS_FILE, read_metrics, run.notes) or []
    if any((folder / SELECTION).glob("*.parquet")):
        tables = _attempt(folder / SELECTION, lambda _: _selection_log(folder), run.notes) or [None] * 3
        run.tasks, run.references, run.conflicts = tables
        run.categories = _attempt(folder / SAMPLES_FILE, lambda _: sample_categories(folder), run.notes) or {}
    else:
        run.notes.append(f"{SELECTION}/: there is no selection log; plain methods write none")
    run.results = _results(folder, run.notes)
    if not run.results:
        run.notes.append(f"{EVALUATION}/: there are no results; `dualselect evaluate` makes them")
    return run


def _selection_log(folder: Path) -> list[pa.Table | None]:
    """Return candidates, references and conflicts as logged, None for what has no rows."""
    tables = (*SelectionLog.read(folder), SelectionLog.read_conflicts(folder))
    return [table if table.num_rows else None for table in tables]


def _results(folder: Path, notes: list[str]) -> list[SuiteResult]:
    results = []
    for path in sorted((folder / EVALUATION).glob("*.json")):
        try:
            results.append(SuiteResult.read(path))
        except DataError as error:
            notes.append(f"{EVALUATION}/{path.name}: left out, {str(error).removeprefix(f'{path}: ')}")
    return results


def _mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    content = _attempt(path, lambda file: parse(file.read_text(encoding="utf-8")), notes)
    return content if isinstance(content, dict) else {}


def _attempt(path: Path, read: Callable[[Path], _Content], notes: list[str]) -> _Content | None:
    if not path.exists():
        notes.append(f"{path.name}: is not there")
        return None
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, pa.ArrowException) as error:
        notes.append(f"{path.name}: could not be read ({one_line(error)})")
        return None
