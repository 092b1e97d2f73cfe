"""The tidy table of everything that was measured: one row per value, from the evaluation to tables, gate and page.

Whatever is reported is estimated from these rows alone. Derived values, such as a win rate, are appended as
further rows (`runs/win_rates.py`), never kept elsewhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dualselect.files import replacing
from dualselect.runs.labels import SAFE_LABELS
from dualselect.runs.results import START, Metric, Record, SuiteResult, whole

FILE = "results.parquet"

VALUES = pa.schema(
    [
        ("method", pa.string()),  # its label in a comparison; in a run the name of the model
        ("strength", pa.string()),  # of the method, such as `rho=0.3`, where it is varied
        ("seed", pa.int64()),  # of training; null for the aligned start and for the models of one run
        ("stage", pa.string()),  # of a stream of tasks, where there is one
        ("split", pa.string()),  # `validation`, by which strengths are chosen, or `test`; null where none is varied
        ("suite", pa.string()),
        ("kind", pa.string()),
        ("metric", pa.string()),
        ("id", pa.string()),
        ("category", pa.string()),
        ("planted", pa.bool_()),  # whether the sample was planted to attack; null for prompts of an evaluation
        ("value", pa.float64()),  # null where there is none, as after a judge without a verdict
        ("title", pa.string()),  # of the metric, as `better` and `unit`
        ("better", pa.string()),
        ("unit", pa.string()),
    ]
)

#: The sides of the split: prompts by which strengths are chosen, and those that are reported.
VALIDATION, TEST = "validation", "test"
#: The kind of rows about the answers themselves. They are not reported; win rates are made from them.
ANSWERS = "answers"
SAFE = "safe"
LONGER = "longer"
#: The id of values that belong to a whole run instead of a prompt.
WHOLE_RUN = "run"

_SAFE = Metric("answers that are safe", "higher")
_LONGER = Metric("characters by which the answer is longer than the baseline's", "neither", "score")

_ROLES = ("start", "baseline", "model")
_UNNAMED = {"start": START, "baseline": "baseline", "model": "this run"}


class ModelKey(NamedTuple):
    """What distinguishes the models of one folder: the role, and the hash of weights, tokenizer and the like."""

    role: str
    hash: str


def values_of(
    results: Iterable[SuiteResult],
    method: str,
    *,
    seed: int | None = None,
    strength: str | None = None,
    stage: str | None = None,
) -> pa.Table:
    """Return every value of every record as rows of `VALUES`, with what win rates need to know about the answers.

    Args:
        results: Results of one model.
        method: Label of the method, or name of the model.
        seed: Training seed of the model; None for a model that is compared with every seed.
        strength: Strength of the method, where it is varied.
        stage: Stage of a stream of tasks, where there is one.
    """
    ours = {"method": method, "strength": strength, "seed": seed, "stage": stage}
    return table(ours | row for result in results for row in _rows(result))


def run_values(results: Sequence[SuiteResult]) -> pa.Table:
    """Return the values of all models of one folder, the start first and the model itself last, by `model_names`.

    No row has a seed: models are compared prompt by prompt, whatever seeds they were trained with.
    """
    names = model_names(results)
    found = [values_of([one for one in results if key_of(one) == key], name) for key, name in names.items()]
    return pa.concat_tables(found) if found else VALUES.empty_table()


def key_of(result: SuiteResult) -> ModelKey:
    """Return what distinguishes the model of a result from the others of its folder."""
    return ModelKey(result.role, str(result.target.get("hash") or ""))


def model_names(results: Iterable[SuiteResult]) -> dict[ModelKey, str]:
    """Return the name of each model of a folder, the start first; names are unique."""
    firsts: dict[ModelKey, SuiteResult] = {}
    for result in results:
        firsts.setdefault(key_of(result), result)
    names: dict[ModelKey, str] = {}
    for key in sorted(firsts, key=lambda key: _ROLES.index(key.role)):
        plain = _model_name(firsts[key])
        first_of_role = all(other.role != key.role for other in names)
        by_role = [f"{plain} ({key.role})"] if first_of_role else []
        choices = (plain, *by_role, f"{plain} ({key.hash[:8]})", f"{plain} ({key.role} {key.hash})")
        names[key] = next(name for name in choices if name not in names.values())
    return names


def write_values(values: pa.Table, folder: Path) -> None:
    """Write the table into a comparison's folder as `results.parquet`."""
    with replacing(folder / FILE) as draft:
        pq.write_table(values, draft, compression="zstd")


def read_values(folder: Path) -> pa.Table:
    """Return the table of a comparison's folder; columns that an older version did not write are null."""
    found = pq.read_table(folder / FILE)
    columns = [
        found[name].cast(kind) if name in found.column_names else pa.nulls(found.num_rows, kind)
        for name, kind in zip(VALUES.names, VALUES.types, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=VALUES)


def table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table of `VALUES`; columns that a row lacks are null."""
    rows = list(rows)
    columns = {name: [row.get(name) for row in rows] for name in VALUES.names}
    return pa.Table.from_pydict(columns, schema=VALUES)


def append(values: pa.Table, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return the table with further rows at its end."""
    return pa.concat_tables([values, table(rows)])


#: The values of one metric for one method: by seed, then by id.
BySeed = dict[int | None, dict[str, float | None]]


@dataclass
class Measured:
    """All values of one metric of one suite.

    Attributes:
        suite: Name of the suite.
        kind: Kind of the suite.
        name: Name of the metric.
        metric: What its values mean.
        by_method: Values by method, seed and id.
        categories: Category of every id.
    """

    suite: str
    kind: str
    name: str
    metric: Metric
    by_method: dict[str, BySeed] = field(default_factory=dict)
    categories: dict[str, str | None] = field(default_factory=dict)


def measured(values: pa.Table) -> list[Measured]:
    """Return the table split by suite and metric, in the order in which suites, and their metrics, first occur.

    Methods are in the order of the whole table.
    """
    found: dict[tuple[str, str, str], Measured] = {}
    suites: dict[str, int] = {}
    columns = ("method", "seed", "suite", "kind", "metric", "id", "category", "value", "title", "better", "unit")
    for method, seed, suite, kind, name, sample, category, value, *metric in zip(
        *(values[column].to_pylist() for column in columns), strict=True
    ):
        suites.setdefault(suite, len(suites))
        if (suite, kind, name) not in found:
            found[suite, kind, name] = Measured(suite, kind, name, Metric(*metric))
        one = found[suite, kind, name]
        one.by_method.setdefault(method, {}).setdefault(seed, {})[sample] = value
        one.categories[sample] = category
    methods = dict.fromkeys(values["method"].to_pylist())
    for one in found.values():
        one.by_method = {method: one.by_method[method] for method in methods if method in one.by_method}
    return sorted(found.values(), key=lambda one: suites[one.suite])


def _rows(result: SuiteResult) -> Iterable[dict[str, Any]]:
    for name, metric in result.metrics.items():
        for record in result.records:
            yield _row(result, result.kind, name, metric, record, record.values.get(name))
    for judge in result.judges if result.kind == "safety" else ():
        for record in result.records:
            verdict = record.verdicts.get(judge)
            is_safe = None if verdict is None or verdict.label is None else float(verdict.label in SAFE_LABELS)
            yield _row(result, ANSWERS, f"{judge}/{SAFE}", _SAFE, record, is_safe)
    for record in result.records if result.kind == "comparison" else ():
        longer = len(record.answer or "") - len(record.baseline_answer or "")
        yield _row(result, ANSWERS, LONGER, _LONGER, record, float(longer))


def _row(
    result: SuiteResult, kind: str, name: str, metric: Metric, record: Record, value: float | None
) -> dict[str, Any]:
    category = None if record.category is None else whole(record.category)
    return {
        **{"suite": result.suite, "kind": kind, "metric": name},
        **{"id": whole(record.id), "category": category, "value": value},
        **{"title": metric.title, "better": metric.better, "unit": metric.unit},
    }


def _model_name(result: SuiteResult) -> str:
    """Return the last part of a folder or hub id, which fits a table."""
    if result.role == "start":
        return START
    return str(result.target.get("name") or "").rstrip("/").rsplit("/", 1)[-1] or _UNNAMED[result.role]
