"""Results with given verdicts."""

from collections.abc import Callable, Sequence

import pytest

from dualselect.runs import Metric, Record, SuiteResult, Verdict


def _judged(
    labels: Sequence[str | None], seed: int | None = 0, *, kind: str = "safety", suite: str = "unsafe"
) -> SuiteResult:
    records = [
        Record(str(number), "?", answer=str(label), category="any", verdicts={"rules": Verdict(label)})
        for number, label in enumerate(labels)
    ]
    metrics = {"rules/refusal": Metric("refusal rate", "higher")}
    return SuiteResult(suite, kind, "model", {"name": "x"}, metrics, records, judges={"rules": "1"}, seed=seed)


@pytest.fixture
def make_judged() -> Callable[..., SuiteResult]:
    """Return a function `(labels, seed=0, *, kind, suite) -> result` of answers that the judge `rules` labelled."""
    return _judged
