"""Do the judges agree? Every two of them on the answers that both have judged."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from dualselect.reports.sections.base import Section, Subject
from dualselect.runs.results import Record, SuiteResult, Verdict
from dualselect.statistics import Estimate, cohen_kappa

NO_VERDICT = "no verdict"


@dataclass(frozen=True)
class Agreement:
    """Two judges on the same answers.

    Attributes:
        first: Name of one judge.
        second: Name of the other.
        answers: Number of answers that both were asked about.
        kappas: Cohen's kappa by what was compared: `labels` where both use the same ones, or a shared measure.
        agreed: Share of answers on which they agree, by what was compared.
        rows: Labels of the first judge.
        columns: Labels of the second judge.
        counts: Number of answers for each pair of labels.
    """

    first: str
    second: str
    answers: int
    kappas: dict[str, Estimate]
    agreed: dict[str, float]
    rows: list[str]
    columns: list[str]
    counts: dict[tuple[str, str], int]


def section(subject: Subject) -> Section | None:
    """Return the section of the judges' agreement; None where no answer has two judges."""
    found = agreements(subject.folder.results)
    return Section("agreement", "Judges", "Do the judges agree?", {"agreement": found}) if found else None


def agreements(results: Iterable[SuiteResult]) -> list[Agreement]:
    """Return the agreement of every two judges, over the answers of all models and suites."""
    records = [record for result in results if result.kind != "comparison" for record in result.records]
    judges = dict.fromkeys(judge for record in records for judge in record.verdicts)
    return [_agreement(records, *pair) for pair in combinations(judges, 2) if any(_both(records, *pair))]


def _both(records: list[Record], first: str, second: str) -> list[Record]:
    return [record for record in records if first in record.verdicts and second in record.verdicts]


def _agreement(records: list[Record], first: str, second: str) -> Agreement:
    both = _both(records, first, second)
    labels = [(_label(record.verdicts[first]), _label(record.verdicts[second])) for record in both]
    counts = Counter(labels)
    rows, columns = (_ordered(pair[side] for pair in labels) for side in (0, 1))
    decided = [pair for pair in labels if NO_VERDICT not in pair]
    compared: dict[str, list[tuple[str, str]]] = {}
    shared = {row for row in rows if row in columns} - {NO_VERDICT}
    if shared and {label for pair in decided for label in pair} <= set(rows) & set(columns):
        compared["labels"] = decided
    for measure in _shared_measures(both, first, second):
        compared[measure] = _values(both, f"{first}/{measure}", f"{second}/{measure}")
    kappas = {name: _kappa(pairs) for name, pairs in compared.items() if pairs}
    agreed = {name: sum(a == b for a, b in pairs) / len(pairs) for name, pairs in compared.items() if pairs}
    return Agreement(first, second, len(both), kappas, agreed, rows, columns, dict(counts))


def _kappa(pairs: list[tuple[str, str]]) -> Estimate:
    return cohen_kappa([first for first, _ in pairs], [second for _, second in pairs])


def _label(verdict: Verdict) -> str:
    return NO_VERDICT if verdict.label is None else verdict.label


def _ordered(labels: Iterable[str]) -> list[str]:
    found = dict.fromkeys(labels)
    return [label for label in found if label != NO_VERDICT] + [NO_VERDICT] * (NO_VERDICT in found)


def _shared_measures(records: list[Record], first: str, second: str) -> list[str]:
    names = dict.fromkeys(name for record in records for name in record.values)
    measures = [name.removeprefix(f"{first}/") for name in names if name.startswith(f"{first}/")]
    return [measure for measure in measures if f"{second}/{measure}" in names]


def _values(records: list[Record], first: str, second: str) -> list[tuple[str, str]]:
    pairs = [(record.values.get(first), record.values.get(second)) for record in records]
    return [(str(a), str(b)) for a, b in pairs if a is not None and b is not None]
