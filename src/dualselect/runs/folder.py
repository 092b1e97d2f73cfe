"""Reading the folder of a run or a comparison. A run is a comparison of one method under one seed.

Folders are read leniently: what is missing, cannot be read, or belongs to other weights becomes a note.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import yaml

from dualselect.errors import DataError, one_line
from dualselect.models.files import ADAPTER_WEIGHTS, Weights
from dualselect.runs.estimates import FILE as ESTIMATES_FILE
from dualselect.runs.estimates import Row, read_estimates, run_estimates
from dualselect.runs.frontier import FILE as FRONTIER_FILE
from dualselect.runs.frontier import Frontier, read_frontier
from dualselect.runs.metrics import FILE as METRICS_FILE
from dualselect.runs.metrics import read_metrics
from dualselect.runs.provenance import CONFIG_FILE, PROVENANCE_FILE
from dualselect.runs.results import FOLDER as EVALUATION
from dualselect.runs.results import START, SuiteResult
from dualselect.runs.samples import FILE as SAMPLES_FILE
from dualselect.runs.samples import sample_categories, sample_planted
from dualselect.runs.selection_log import FOLDER as SELECTION
from dualselect.runs.selection_log import SelectionLog
from dualselect.runs.stream import StreamTables, is_stream_folder, read_stream_tables
from dualselect.runs.stream_rows import is_change, stream_rows
from dualselect.runs.values import key_of, model_names

COMPARE_FILE = "compare.json"

Sample = tuple[str, str]  # role and id

_Content = TypeVar("_Content")


@dataclass
class RunFolder:
    """One run on disk.

    Attributes:
        path: Folder of the run.
        config: Settings of the run; empty where unknown.
        provenance: Provenance of the run; empty where unknown.
        metrics: Log events.
        tasks: Logged task candidates; None without a log.
        references: Logged references; None without a log.
        conflicts: Cosines of samples with references; None where they were not measured.
        categories: Categories of the logged samples by role and id, as far as they are known.
        planted: Whether a logged sample was planted to attack the run, by role and id, as far as that is known.
        results: Evaluation results of the weights in the folder, and of what they were compared with.
        notes: What is missing or could not be read, one line each.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    tasks: pa.Table | None = None
    references: pa.Table | None = None
    conflicts: pa.Table | None = None
    categories: dict[Sample, str] = field(default_factory=dict)
    planted: dict[Sample, bool] = field(default_factory=dict)
    results: list[SuiteResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the folder contains nothing of a run."""
        return not (self.config or self.provenance or self.metrics or self.results or self.tasks or self.references)

    @property
    def method(self) -> str:
        """The method, `this run` where it is unknown."""
        return str(self.config.get("method") or "this run")


@dataclass(frozen=True)
class Model:
    """A model whose answers are shown.

    Attributes:
        name: Name of the model, unique in the folder.
        results: Results of the model, all for the same weights.
        is_baseline: Whether others are compared with it.
    """

    name: str
    results: list[SuiteResult]
    is_baseline: bool = False


@dataclass(frozen=True)
class TrialFolder:
    """One method under one seed: whether it is done, and its run if it is.

    Where strengths are varied, only those of the chosen strengths have a run.
    """

    method: str
    seed: int | None
    status: str
    error: str
    seconds: float | None
    run: RunFolder | None
    strength: str | None = None


@dataclass(frozen=True)
class Folder:
    """A comparison, or a run as a comparison of one method, on disk.

    Attributes:
        path: Folder of the comparison or run.
        is_comparison: Whether it is a comparison of methods.
        methods: Labels of the methods, in their order.
        seeds: Training seeds, as far as they are known.
        baseline: Label of the method that the others are compared with; None for a run.
        trials: Trials, one for every method and seed.
        names: Names in the rows, in the order shown: the start first, then methods, or the models of a run.
        models: Models whose answers are shown, in that order; of a comparison those under one seed.
        lead: The model that a run is about; None for a comparison, and for a run that was not evaluated.
        rows: Estimates of every measure.
        seed_shown: Seed whose answers a comparison shows.
        notes: What is missing or could not be read.
        stream: What a stream of tasks came to; None for anything else.
        frontier: All strengths of all methods; None where none is varied.
    """

    path: Path
    is_comparison: bool
    methods: list[str]
    seeds: list[int]
    baseline: str | None
    trials: list[TrialFolder]
    names: list[str]
    models: list[Model]
    lead: str | None
    rows: list[Row]
    seed_shown: int | None
    notes: list[str]
    stream: StreamTables | None = None
    frontier: Frontier | None = None

    @property
    def runs(self) -> list[tuple[TrialFolder, RunFolder]]:
        """The trials that have a run, with it."""
        return [(trial, trial.run) for trial in self.trials if trial.run is not None]

    @property
    def results(self) -> list[SuiteResult]:
        """The results of the start and of every trial, or of all models of a run."""
        if not self.is_comparison:
            return [result for model in self.models for result in model.results]
        start = [result for model in self.models if model.name == START for result in model.results]
        return start + [result for _, run in self.runs for result in _own(run)]


def is_compare_folder(folder: Path) -> bool:
    """Return whether `folder` contains a comparison of methods."""
    return (folder / COMPARE_FILE).is_file()


def read_folder(folder: Path) -> Folder:
    """Return what the folder of a run, of a comparison or of a stream of tasks contains.

    Raises:
        DataError: It contains none of them, or its `compare.json` or `stream.json` cannot be used.
    """
    if is_stream_folder(folder):
        return read_stream_folder(folder)
    return read_comparison(folder) if is_compare_folder(folder) else as_comparison(read_run(folder))


def read_run(folder: Path) -> RunFolder:
    """Return what a run folder contains.

    Raises:
        DataError: The folder contains nothing of a run.
    """
    run = _read_run(folder)
    if run.is_empty:
        raise DataError(
            f"{folder}: contains neither a run nor a comparison; give the output_dir of `dualselect train` or of "
            "`dualselect compare`"
        )
    return run


def as_comparison(run: RunFolder) -> Folder:
    """Return a run as a comparison of its one method: its model is compared with its start and its baselines."""
    names = model_names(run.results)
    models = [
        Model(name, [one for one in run.results if key_of(one) == key], is_baseline=key.role == "baseline")
        for key, name in names.items()
    ]
    seed = run.config.get("seed")
    return Folder(
        path=run.path,
        is_comparison=False,
        methods=[run.method],
        seeds=[] if seed is None else [seed],
        baseline=None,
        trials=[TrialFolder(run.method, seed, "done", "", None, run)],
        names=list(names.values()),
        models=models,
        lead=next((name for key, name in names.items() if key.role == "model"), None),
        rows=run_estimates(run.results),
        seed_shown=None,
        notes=run.notes,
    )


def read_comparison(folder: Path) -> Folder:
    """Return what a compare folder contains.

    Raises:
        DataError: The folder's `compare.json` cannot be used.
    """
    path = folder / COMPARE_FILE
    notes: list[str] = []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_tuned = any("strength" in cell for cell in content["cells"])
        frontier = _attempt(folder / FRONTIER_FILE, lambda _: read_frontier(folder), notes) if is_tuned else None
        chosen = {(point.method, point.strength) for point in frontier.chosen} if frontier else set()
        trials = [_read_trial(folder, trial, chosen if is_tuned else None) for trial in content["cells"]]
        methods = [str(method) for method in content["methods"]]
        seeds, baseline = [int(seed) for seed in content["seeds"]], str(content["baseline"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not a comparison ({error!r}); write it again with `dualselect compare`") from error
    start = _results(folder / START, notes)
    if not start:
        notes.append(f"{START}/{EVALUATION}/: the aligned start was not evaluated")
    rows = _attempt(folder / ESTIMATES_FILE, lambda _: read_estimates(folder, baseline), notes) or []
    seed = _seed_to_show(trials, seeds)
    shown = {trial.method: trial.run for trial in trials if trial.seed == seed and trial.run is not None}
    models = [Model(START, start)] if start else []
    models += [Model(name, _own(shown[name]), name == baseline) for name in methods if name in shown]
    notes += [
        f"{trial.method}, seed {trial.seed}: {note}" for trial in trials if trial.run for note in left_out(trial.run)
    ]
    return Folder(
        path=folder,
        is_comparison=True,
        methods=methods,
        seeds=seeds,
        baseline=baseline,
        trials=trials,
        names=[START, *methods],
        models=models,
        lead=None,
        rows=rows,
        seed_shown=seed,
        notes=notes,
        frontier=frontier,
    )


def read_stream_folder(folder: Path) -> Folder:
    """Return a stream of tasks as a comparison of its methods, whose trials are its cells.

    Raises:
        DataError: Its `stream.json` or one of its tables cannot be used.
    """
    tables = read_stream_tables(folder)
    stream = tables.stream
    return Folder(
        path=folder,
        is_comparison=True,
        methods=list(stream.methods),
        seeds=list(stream.seeds),
        baseline=stream.baseline,
        trials=[TrialFolder(cell.method, cell.seed, cell.status, cell.error, None, None) for cell in stream.cells],
        names=[START, *stream.methods],
        models=[],
        lead=None,
        rows=[row for row in stream_rows(tables.measures) if not is_change(row)],
        seed_shown=None,
        notes=[f"{cell.method}, seed {cell.seed}: {note}" for cell in stream.cells for note in cell.notes],
        stream=tables,
    )


def left_out(run: RunFolder) -> list[str]:
    """Return the notes on results of a run that are not shown."""
    return [note for note in run.notes if note.startswith(f"{EVALUATION}/") and ": left out" in note]


def _own(run: RunFolder) -> list[SuiteResult]:
    return [result for result in run.results if result.role == "model"]


def _seed_to_show(trials: list[TrialFolder], seeds: list[int]) -> int | None:
    """Return the seed under which most methods are done, the first of several."""
    done = [trial.seed for trial in trials if trial.run is not None]
    return max(seeds, key=done.count) if done else None


def _read_trial(folder: Path, trial: dict[str, Any], chosen: Collection[tuple[str, str | None]] | None) -> TrialFolder:
    """Return a trial; where strengths are varied, with its run only if its strength is chosen."""
    strength = trial.get("strength")
    is_shown = chosen is None or (trial["method"], strength) in chosen
    place = folder / str(trial.get("folder") or f"cells/{trial['method']}-seed{trial['seed']}")
    run = _read_run(place) if trial["status"] == "done" and is_shown and place.is_dir() else None
    return TrialFolder(
        method=str(trial["method"]),
        seed=int(trial["seed"]),
        status=str(trial["status"]),
        error=str(trial.get("error") or ""),
        seconds=trial.get("seconds"),
        run=None if run is None or run.is_empty else run,
        strength=strength,
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
        run.planted = _attempt(folder / SAMPLES_FILE, lambda _: sample_planted(folder), []) or {}
    else:
        run.notes.append(f"{SELECTION}/: there is no selection log; plain methods write none")
    run.results = _results(folder, run.notes)
    if not run.results:
        run.notes.append(f"{EVALUATION}/: there are no results; `dualselect evaluate` makes them")
    return run


def _selection_log(folder: Path) -> list[pa.Table | None]:
    """Return candidates, references and conflicts as logged, None for tables without rows."""
    tables = (*SelectionLog.read(folder), SelectionLog.read_conflicts(folder))
    return [table if table.num_rows else None for table in tables]


def _results(folder: Path, notes: list[str]) -> list[SuiteResult]:
    """Return the results in a folder, without those of a model that is no longer the one in the folder."""
    results = []
    for path in sorted((folder / EVALUATION).glob("*.json")):
        place = f"{EVALUATION}/{path.name}"
        try:
            result = SuiteResult.read(path)
            if _is_of_other_weights(result, folder):
                notes.append(f"{place}: left out, it is for other weights than those here; evaluate the model again")
            else:
                results.append(result)
        except DataError as error:
            notes.append(f"{place}: left out, {str(error).removeprefix(f'{path}: ')}")
    return results


def _is_of_other_weights(result: SuiteResult, folder: Path) -> bool:
    """Return whether a result of the model has another hash of adapter or weights than the folder."""
    weights = Weights(str(folder), folder)
    measured = result.target.get("adapter" if weights.is_adapter else "weights")
    has_weights = (folder / ADAPTER_WEIGHTS).is_file() if weights.is_adapter else any(folder.glob("*.safetensors"))
    return result.role == "model" and measured is not None and has_weights and measured != weights.hash


def _mapping(path: Path, parse: Callable[[str], Any], notes: list[str]) -> dict[str, Any]:
    content = _attempt(path, lambda file: parse(file.read_text(encoding="utf-8")), notes)
    return content if isinstance(content, dict) else {}


def _attempt(path: Path, read: Callable[[Path], _Content], notes: list[str]) -> _Content | None:
    if not path.exists():
        notes.append(f"{path.name}: is missing")
        return None
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, pa.ArrowException) as error:
        notes.append(f"{path.name}: could not be read ({one_line(error)})")
        return None
