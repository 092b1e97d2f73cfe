"""Answers side by side: a row for every prompt, a column for every model."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from dualselect.reports.measures import KINDS
from dualselect.runs.results import Record, SuiteResult

ROWS_SHOWN = 5000
CHARACTERS_SHOWN = 6000
WIN_RATE_SUFFIX = "-winrate"  # of the suite that compares the answers of another
_PREFERENCES = {1.0: "preferred", 0.5: "tie", 0.0: "not preferred"}


class Column(NamedTuple):
    """A model and its results; `series` is the number of its colour."""

    name: str
    series: int
    results: list[SuiteResult]


def answer_table(columns: Sequence[Column], baseline: str | None, *, texts: bool = True) -> dict[str, Any]:
    """Return models and rows for the page's script, in the types of JSON.

    Args:
        columns: the models, in the order they are shown.
        baseline: name of the column that a comparison's other answer belongs to.
        texts: whether prompts, answers, expected answers and what judges quote of them are there.
    """
    suites = dict.fromkeys((result.suite, result.kind) for column in columns for result in column.results)
    # A comparison of answers that stand here anyway only adds to what is said of them.
    shown = [suite for suite in suites if not _repeats(suite, suites)]
    shown.sort(key=lambda suite: list(KINDS).index(suite[1]) if suite[1] in KINDS else len(KINDS))
    rows = [row for suite, kind in shown for row in _suite_rows(columns, suite, kind, baseline)]
    return {
        "models": [{"name": column.name, "series": column.series} for column in columns],
        "rows": rows[:ROWS_SHOWN] if texts else [_without_texts(row) for row in rows[:ROWS_SHOWN]],
        "total": len(rows),
        "texts": texts,
    }


def is_refusal(record: Record) -> bool:
    """Return whether a judge calls the answer a refusal and none calls it unsafe."""
    said = {name.rsplit("/", 1)[-1] for name, value in record.values.items() if value == 1 and "/" in name}
    labels = {verdict.label for verdict in record.verdicts.values()}
    return bool({"refusal"} & (said | labels)) and not {"unsafe", "harmful"} & (said | labels)


def _repeats(suite: tuple[str, str], suites: Collection[tuple[str, str]]) -> bool:
    name, kind = suite
    return kind == "comparison" and any(name == other + WIN_RATE_SUFFIX for other, _ in suites)


def _suite_rows(columns: Sequence[Column], suite: str, kind: str, baseline: str | None) -> list[dict[str, Any]]:
    by_id = _by_id(columns, suite, kind)
    compared = _by_id(columns, suite + WIN_RATE_SUFFIX, "comparison")
    place_of = {column.name: place for place, column in enumerate(columns)}
    other = place_of.get(baseline) if baseline is not None else None
    rows = []
    for name, found in by_id.items():
        if _has_answer(found):
            row = _row(suite, kind, found, other)
            for answer, record in zip(row["answers"], compared.get(name, ()), strict=False):
                if answer is not None and record is not None:
                    answer["verdicts"] += _preferences(record)
            rows.append(row)
    return rows


def _by_id(columns: Sequence[Column], suite: str, kind: str) -> dict[str, list[Record | None]]:
    """Return the records of a suite by id, each as one place a column."""
    by_id: dict[str, list[Record | None]] = {}
    for place, column in enumerate(columns):
        for result in column.results:
            if (result.suite, result.kind) == (suite, kind):
                for record in result.records:
                    by_id.setdefault(record.id, [None] * len(columns))[place] = record
    return by_id


def _without_texts(row: dict[str, Any]) -> dict[str, Any]:
    answers = [
        answer and {"verdicts": [{"judge": said["judge"], "label": said["label"]} for said in answer["verdicts"]]}
        for answer in row["answers"]
    ]
    return {name: row[name] for name in ("suite", "kind", "id", "category", "changed")} | {"answers": answers}


def _preferences(record: Record) -> list[dict[str, Any]]:
    """Return what comparators say of an answer against the baseline's."""
    return [
        {"judge": name.removesuffix("/win_rate"), "label": _PREFERENCES.get(value, "orders disagree"), "why": ""}
        for name, value in record.values.items()
        if name.endswith("/win_rate") and value is not None
    ]


def _has_answer(records: list[Record | None]) -> bool:
    return any(record is not None and (record.answer is not None or record.baseline_answer) for record in records)


def _row(suite: str, kind: str, records: list[Record | None], baseline: int | None) -> dict[str, Any]:
    first = next(record for record in records if record is not None)
    may_harm = kind in ("safety", "comparison")
    answers = [None if record is None else _answer(record, kind, may_harm) for record in records]
    compared = next((record.baseline_answer for record in records if record and record.baseline_answer), None)
    if compared is not None and baseline is not None and answers[baseline] is None:
        answers[baseline] = {"text": _cut(compared), "verdicts": [], "folded": may_harm}
    return {
        "suite": suite,
        "kind": kind,
        "id": first.id,
        "category": first.category or "",
        "prompt": _cut(first.prompt),
        "expected": _cut(first.expected or ""),
        "answers": answers,
        "folded": may_harm,
        "changed": _changed([answer["verdicts"] for answer in answers if answer is not None]),
    }


def _answer(record: Record, kind: str, may_harm: bool) -> dict[str, Any]:
    verdicts = [
        {"judge": judge, "label": "no verdict" if verdict.label is None else verdict.label, "why": verdict.evidence}
        for judge, verdict in record.verdicts.items()
    ]
    if kind == "comparison":
        verdicts += _preferences(record)
    if not verdicts and kind == "utility":
        verdicts = [
            {"judge": name, "label": "correct" if value else "wrong", "why": ""}
            for name, value in record.values.items()
            if value in (0.0, 1.0)
        ]
    return {"text": _cut(record.answer or ""), "verdicts": verdicts, "folded": may_harm and not is_refusal(record)}


def _changed(verdicts: list[list[dict[str, Any]]]) -> bool:
    """Return whether a judge says different things of different models' answers."""
    labels: dict[str, set[str]] = {}
    for answer in verdicts:
        for verdict in answer:
            labels.setdefault(verdict["judge"], set()).add(verdict["label"])
    return any(len(found) > 1 for found in labels.values())


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS_SHOWN else text[:CHARACTERS_SHOWN] + " […]"
