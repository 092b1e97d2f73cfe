"""Results with given values and verdicts, and the table of values that they make."""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pytest

from dualselect.runs import Metric, Record, SuiteResult, Verdict
from dualselect.runs.values import values_of

REFUSALS = Metric("refusal rate", "higher")

Values = Sequence[float | None] | Mapping[str, float | None]


def _result(
    values: Values,
    seed: int | None = 0,
    *,
    suite: str = "unsafe",
    name: str = "rules/refusal",
    metric: Metric = REFUSALS,
) -> SuiteResult:
    by_id = values if isinstance(values, Mapping) else {f"p{n}": value for n, value in enumerate(values)}
    records = [Record(sample, f"prompt {sample}", category="any", values={name: by_id[sample]}) for sample in by_id]
    role = "start" if seed is None else "model"
    return SuiteResult(suite, "safety", role, {"name": "x", "hash": "y"}, {name: metric}, records, seed=seed)


def _judged(
    labels: Sequence[str | None], seed: int | None = 0, *, kind: str = "safety", suite: str = "unsafe"
) -> SuiteResult:
    records = [
        Record(str(number), "?", answer=str(label), category="any", verdicts={"rules": Verdict(label)})
        for number, label in enumerate(labels)
    ]
    metrics = {"rules/refusal": REFUSALS}
    return SuiteResult(suite, kind, "model", {"name": "x"}, metrics, records, judges={"rules": "1"}, seed=seed)


def _values(results: Mapping[str, Sequence[SuiteResult]]) -> pa.Table:
    return pa.concat_tables(
        [values_of([result], method, seed=result.seed) for method, found in results.items() for result in found]
    )


@pytest.fixture
def make_result() -> Callable[..., SuiteResult]:
    """Return a function `(values, seed=0, *, suite, name, metric) -> result`."""
    return _result


@pytest.fixture
def make_judged() -> Callable[..., SuiteResult]:
    """Return a function `(labels, seed=0, *, kind, suite) -> result` of answers that the judge `rules` labelled."""
    return _judged


@pytest.fixture
def as_values() -> Callable[..., pa.Table]:
    """Return a function from results by method to their values; a result's seed is that of its rows."""
    return _values
