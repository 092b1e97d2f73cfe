"""What training took and what it took in, in the form of evaluation results, so that tables treat it like any suite."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from dualselect import methods
from dualselect.experiments.trial import Cell, CellState
from dualselect.runs.results import TRAINING, Metric, Record, SuiteResult
from dualselect.runs.selection_log import SelectionLog

_MARK = "poison"  # in the ids of task samples that are known to harm
_WHOLE_RUN = "run"

_SECONDS = Metric("training time in seconds", "neither", "score")
_POISON_KEPT = Metric("poison samples trained on", "lower")


def training_results(cells: Iterable[tuple[Cell, CellState]]) -> dict[str, list[SuiteResult]]:
    """Return results of the suite `training` for the cells given, by label.

    The metric `seconds` has one value a run. The metric `poison_kept` has one for every task sample whose id says
    poison and that every run has met: the share of its presentations that had a weight. A method that makes no
    selection trains on everything.
    """
    found: dict[str, list[SuiteResult]] = defaultdict(list)
    cells = list(cells)
    for cell, state in cells:
        values = {_WHOLE_RUN: state.training_seconds}
        found[cell.label].append(_result(cell, "seconds", _SECONDS, values))
    logged = {cell.name: poison_kept(cell) for cell, _ in cells if methods.get(cell.method).reads_gradients()}
    met = set.intersection(*map(set, logged.values())) if logged else set()
    for cell, _ in cells if met else ():
        shares = logged.get(cell.name)
        kept = {name: 1.0 if shares is None else shares[name] for name in sorted(met)}
        found[cell.label].append(_result(cell, "poison_kept", _POISON_KEPT, kept))
    return dict(found)


def poison_kept(cell: Cell) -> dict[str, float]:
    """Return the share of presentations that were trained on, for every poison sample in a cell's selection log."""
    tasks, _ = SelectionLog.read(cell.folder)
    presented: dict[str, list[bool]] = defaultdict(list)
    for name, is_kept in zip(tasks["id"].to_pylist(), tasks["kept"].to_pylist(), strict=True):
        if _MARK in name:
            presented[name].append(is_kept)
    return {name: sum(flags) / len(flags) for name, flags in presented.items()}


def _result(cell: Cell, name: str, metric: Metric, values: Mapping[str, float | None]) -> SuiteResult:
    return SuiteResult(
        suite=TRAINING,
        kind=TRAINING,
        role="model",
        target={"name": cell.label},
        metrics={name: metric},
        records=[Record(sample, "", values={name: value}) for sample, value in values.items()],
        seed=cell.seed,
    )
