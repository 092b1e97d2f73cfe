"""Answers side by side: a row for every prompt, a column for every model."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from dualselect.reports.sections.base import Section, Subject
from dualselect.runs.labels import KINDS, TONES, is_refusal
from dualselect.runs.results import Record, SuiteResult
from dualselect.runs.values import ModelKey, key_of

ROWS_SHOWN = 5000
CHARACTERS_SHOWN = 6000
WIN_RATE_SUFFIX = "-winrate"  # of the suite that compares another suite's answers
_PREFERENCES = {1.0: "preferred", 0.5: "tie", 0.0: "not preferred"}


@dataclass(frozen=True)
class Column:
    """A model and its results.

    Attributes:
        name: Name of the model.
        series: Number of its colour.
        results: Results of the model.
        is_baseline: Whether others are compared with it.
    """

    name: str
    series: int
    results: list[SuiteResult]
    is_baseline: bool = False


@dataclass
class _Place:
    """One model's answer to one prompt.

    Attributes:
        record: Record of the answer.
        rival: Index of the column whose answer is its `baseline_answer`, if known.
    """

    record: Record
    rival: int | None = None


def section(subject: Subject) -> Section | None:
    """Return the section of answers side by side; None where there are none."""
    folder = subject.folder
    columns = [
        Column(model.name, subject.series.get(model.name, 0), model.results, model.is_baseline)
        for model in folder.models
    ]
    table = answer_table(columns, texts=subject.texts)
    if not table["rows"]:
        return None
    content = {"answers": table, "answers_of": f"seed {folder.seed_shown}" if folder.is_comparison else None}
    return Section("answers", "Answers", "Answers side by side", content, data=table)


def answer_table(columns: Sequence[Column], *, texts: bool = True) -> dict[str, Any]:
    """Return models and rows for the page's script, in the types of JSON.

    Args:
        columns: Models, in the order shown.
        texts: Whether prompts, answers, expected answers and what judges quote from them are included.
    """
    suites = dict.fromkeys((result.suite, result.kind) for column in columns for result in column.results)
    # A comparison of answers that are shown anyway only adds to their labels.
    shown = [suite for suite in suites if not _repeats(suite, suites)]
    shown.sort(key=lambda suite: list(KINDS).index(suite[1]) if suite[1] in KINDS else len(KINDS))
    rows = [row for suite, kind in shown for row in _suite_rows(columns, suite, kind)]
    return {
        "models": [{"name": column.name, "series": column.series} for column in columns],
        "tones": TONES,
        "rows": rows[:ROWS_SHOWN] if texts else [_without_texts(row) for row in rows[:ROWS_SHOWN]],
        "total": len(rows),
        "texts": texts,
    }


def _labels(record: Record) -> set[str | None]:
    """Return the judges' labels of an answer, and their measures that count it."""
    counted = {name.rsplit("/", 1)[-1] for name, value in record.values.items() if value == 1 and "/" in name}
    return counted | {verdict.label for verdict in record.verdicts.values()}


def _repeats(suite: tuple[str, str], suites: Collection[tuple[str, str]]) -> bool:
    name, kind = suite
    return kind == "comparison" and any(name == other + WIN_RATE_SUFFIX for other, _ in suites)


def _suite_rows(columns: Sequence[Column], suite: str, kind: str) -> list[dict[str, Any]]:
    compared = _by_id(columns, suite + WIN_RATE_SUFFIX, "comparison")
    rows = []
    for name, found in _by_id(columns, suite, kind).items():
        if any(place is not None and _has_answer(place.record) for place in found):
            row = _row(suite, kind, found)
            for answer, place in zip(row["answers"], compared.get(name, ()), strict=False):
                if answer is not None and place is not None:
                    answer["verdicts"] += _preferences(place.record)
            rows.append(row)
    return rows


def _by_id(columns: Sequence[Column], suite: str, kind: str) -> dict[str, list[_Place | None]]:
    """Return the answers to each prompt of a suite by id, one per column."""
    by_id: dict[str, list[_Place | None]] = {}
    for place, column in enumerate(columns):
        for result in column.results:
            if (result.suite, result.kind) == (suite, kind):
                rival = _rival(result, columns)
                for record in result.records:
                    by_id.setdefault(record.id, [None] * len(columns))[place] = _Place(record, rival)
    return by_id


def _rival(result: SuiteResult, columns: Sequence[Column]) -> int | None:
    """Return the column of the baseline that a comparison was made with; None where that model is not shown."""
    baselines = [place for place, column in enumerate(columns) if column.is_baseline]
    target = result.settings.get("baseline")
    if not isinstance(target, dict) or not target.get("hash"):
        return baselines[0] if len(baselines) == 1 else None
    asked = ModelKey("baseline", str(target["hash"]))
    return next((place for place in baselines if asked in map(key_of, columns[place].results)), None)


def _without_texts(row: dict[str, Any]) -> dict[str, Any]:
    answers = [
        answer and {"verdicts": [{"judge": said["judge"], "label": said["label"]} for said in answer["verdicts"]]}
        for answer in row["answers"]
    ]
    return {name: row[name] for name in ("suite", "kind", "id", "category", "changed")} | {"answers": answers}


def _preferences(record: Record) -> list[dict[str, Any]]:
    """Return the comparators' verdicts on an answer against the baseline's."""
    return [
        {"judge": name.removesuffix("/win_rate"), "label": _PREFERENCES.get(value, "orders disagree"), "why": ""}
        for name, value in record.values.items()
        if name.endswith("/win_rate") and value is not None
    ]


def _has_answer(record: Record) -> bool:
    return record.answer is not None or bool(record.baseline_answer)


def _row(suite: str, kind: str, places: list[_Place | None]) -> dict[str, Any]:
    there = [place for place in places if place is not None]
    first = there[0].record
    may_harm = kind in ("safety", "comparison")
    answers = [None if place is None else _answer(place.record, kind, may_harm) for place in places]
    for place in there:
        other = place.record.baseline_answer
        if other and place.rival is not None and answers[place.rival] is None:
            answers[place.rival] = {"text": _cut(other), "verdicts": [], "folded": may_harm}
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
    is_folded = may_harm and not is_refusal(_labels(record))
    answer = {"text": _cut(record.answer or ""), "verdicts": verdicts, "folded": is_folded}
    return answer | ({"thought": _cut(record.thought)} if record.thought else {})


def _changed(verdicts: list[list[dict[str, Any]]]) -> bool:
    """Return whether a judge gives different labels to different models' answers."""
    labels: dict[str, set[str]] = {}
    for answer in verdicts:
        for verdict in answer:
            labels.setdefault(verdict["judge"], set()).add(verdict["label"])
    return any(len(found) > 1 for found in labels.values())


def _cut(text: str) -> str:
    return text if len(text) <= CHARACTERS_SHOWN else text[:CHARACTERS_SHOWN] + " […]"
