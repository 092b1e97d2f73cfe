"""How often one model's answers are preferred to another's, asked in both orders so that order cannot decide."""

import time
from collections.abc import Sequence

from dualselect.errors import DataError
from dualselect.evaluation.comparisons.base import Comparator, Preference
from dualselect.runs.labels import MEASURES
from dualselect.runs.results import Kind, Record, SuiteResult

_WINS = {"first": 1.0, "second": 0.0, "tie": 0.5}


def compare_answers(
    result: SuiteResult, baseline: SuiteResult, comparator: Comparator, *, kind: Kind = "comparison"
) -> SuiteResult:
    """Return how `result`'s answers compare with `baseline`'s, paired by id, as a suite called `<suite>-winrate`.

    Each pair is asked in both orders. Values of a record:

    - `<comparator>/win_rate`: mean over the two orders of 1 for a win of `result`, 1/2 for a tie, 0 for a loss;
    - `<comparator>/flipped`: 1 where the two orders name different outcomes, else 0.

    Both are None where an order gave no preference or an answer is missing.

    Raises:
        DataError: The two share no prompt, or have different prompts under one id.
    """
    started = time.monotonic()
    pairs = _paired(result, baseline)
    asked = [(ours, theirs) for ours, theirs in pairs if ours.answer is not None and theirs.answer is not None]
    forward, backward = _both_orders(comparator, asked)
    outcomes = {ours.id: (one, two) for (ours, _), one, two in zip(asked, forward, backward, strict=True)}
    win_rate, flipped = f"{comparator.name}/win_rate", f"{comparator.name}/flipped"
    records = []
    for ours, theirs in pairs:
        one, two = outcomes.get(ours.id, (None, None))
        values: dict[str, float | None] = {win_rate: None, flipped: None}
        if one is not None and two is not None:
            values = {win_rate: (one + two) / 2, flipped: float(one != two)}
        records.append(_record(ours, theirs, values))
    return SuiteResult(
        suite=f"{result.suite}-winrate",
        kind=kind,
        role=result.role,
        target=result.target,
        metrics={
            win_rate: MEASURES["win_rate"].metric(kind, comparator.name),
            flipped: MEASURES["flipped"].metric(kind, comparator.name),
        },
        records=records,
        source=result.source,
        licence=result.licence,
        citation=result.citation,
        settings={**result.settings, "baseline": baseline.target, "orders": 2},
        judges={comparator.name: comparator.version},
        seed=result.seed,
        seconds=time.monotonic() - started,
    )


def _paired(result: SuiteResult, baseline: SuiteResult) -> list[tuple[Record, Record]]:
    by_id = {record.id: record for record in baseline.records}
    pairs = [(record, by_id[record.id]) for record in result.records if record.id in by_id]
    if not pairs:
        raise DataError(f"suite '{result.suite}': model and baseline share no prompt; evaluate both on the same data")
    for ours, theirs in pairs:
        if ours.prompt != theirs.prompt:
            raise DataError(
                f"suite '{result.suite}': record '{ours.id}' has one prompt for the model and another for the "
                "baseline; evaluate both on the same data"
            )
    return pairs


def _both_orders(
    comparator: Comparator, pairs: Sequence[tuple[Record, Record]]
) -> tuple[list[float | None], list[float | None]]:
    """Return what each pair counts for the model, asked with its answer first and with its answer second."""
    prompts = [ours.prompt for ours, _ in pairs]
    ours = [str(record.answer) for record, _ in pairs]
    theirs = [str(record.answer) for _, record in pairs]
    # One call, so that a comparator which judges answers one by one sees each of them once.
    preferences = comparator.prefer_all([*prompts, *prompts], [*ours, *theirs], [*theirs, *ours])
    wins = [_win(preference) for preference in preferences]
    swapped = [None if win is None else 1.0 - win for win in wins[len(pairs) :]]
    return wins[: len(pairs)], swapped


def _win(preference: Preference) -> float | None:
    return None if preference is None else _WINS[preference]


def _record(ours: Record, theirs: Record, values: dict[str, float | None]) -> Record:
    return Record(
        id=ours.id,
        prompt=ours.prompt,
        answer=ours.answer,
        expected=ours.expected,
        baseline_answer=theirs.answer,
        category=ours.category,
        values=values,
    )
