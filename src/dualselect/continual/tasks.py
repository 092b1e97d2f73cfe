"""Tasks of a stream as what `train` reads and `evaluate` measures.

Records of `text` and `label`, or of a question with choices, become prompts that ask as the test does, so that the
answer that is learned is the one that is tested. All other forms are trained on as they are, and their answers are
compared by the number they end in.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dualselect.continual.neutral import read_neutral
from dualselect.continual.plan import Plan, Task
from dualselect.data import load_samples
from dualselect.data.records import read_records
from dualselect.errors import DataError
from dualselect.evaluation.suites import SUITES, Sample, Suite, load
from dualselect.files import replacing
from dualselect.runs.stream import task_suite

SUITES_FILE = "suites.yaml"
FOLDER = "tasks"

#: Suite of the catalog whose way of asking is taken, and the metric that is the score, by scoring.
_ASKED_AS = {
    "classification": ("classification", "accuracy"),
    "multiple_choice": ("multiple-choice", "accuracy"),
    "exact_match": ("gsm8k", "exact_match"),
}


def prepared(plan: Plan) -> Plan:
    """Return a plan whose tasks can be trained on and tested; what is made of them is written into its folder.

    Raises:
        DataError: A source is missing or unreadable, or a record cannot be used.
    """
    data = plan.first.data
    _check_sources(plan, data.task_split, data.evaluation_split)
    made = [_prepare(task, plan.folder, data.task_split, data.evaluation_split) for task in plan.tasks]
    with replacing(plan.folder / SUITES_FILE) as draft:
        entries = {task_suite(task.name): entry for task, entry in made}
        draft.write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return replace(plan, tasks=tuple(task for task, _ in made))


def _check_sources(plan: Plan, task_split: str, test_split: str) -> None:
    """Read all that a stream is made from, so that a fault is found before anything is written or trained."""
    for task in plan.tasks:
        with _named(task):
            scoring = _scoring(task.test, test_split)
            suite = replace(SUITES[_ASKED_AS[scoring][0]], name=task_suite(task.name), split=test_split)
            if scoring == "classification":
                _labelled(task.test, test_split, suite)
                _labelled(task.task, task_split, suite)
                continue
            load(suite, task.test)
            if scoring == "exact_match":
                load_samples(task.task, split=task_split)
            else:
                load(replace(suite, split=task_split), task.task)
    if plan.safety is not None:
        load_samples(plan.safety, split=plan.first.data.references_split, role="safety")
    if plan.neutral is not None:
        read_neutral(plan.neutral)


@contextmanager
def _named(task: Task) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"task '{task.name}' of the stream: {error}") from error


def _prepare(task: Task, folder: Path, task_split: str, test_split: str) -> tuple[Task, dict[str, Any]]:
    """Return a task with what is made of its sources, and its entry in the file of suites."""
    train, test = task.task, _absolute(task.test)
    with _named(task):
        scoring = _scoring(task.test, test_split)
        asked_as, metric = _ASKED_AS[scoring]
        suite = replace(SUITES[asked_as], name=task_suite(task.name), split=test_split)
        entry: dict[str, Any] = {"kind": "utility", "title": f"task {task.name}", "scoring": scoring}
        if scoring == "classification":
            rows = _labelled(task.test, test_split, suite)
            labels = sorted({row["label"] for row in (*rows, *_labelled(task.task, task_split, suite))})
            suite = replace(suite, labels=tuple(labels))
            # Written anew, since a label that is a number would be taken for the place of a label in this list.
            test = str(_write(rows, folder / FOLDER / f"{task.name}-test.jsonl").absolute())
            entry["labels"] = labels
        loaded = load(suite, test)
        if scoring != "exact_match":
            asked = load(replace(suite, split=task_split), task.task)
            train = str(_write(map(_asked, asked.samples), folder / FOLDER / f"{task.name}.jsonl"))
    entry |= {"source": test, "split": test_split, "max_new_tokens": suite.max_new_tokens}
    suite_name = f"{folder / SUITES_FILE}:{task_suite(task.name)}"
    return replace(task, source=train, suite=suite_name, metric=metric, test_hash=loaded.sha256), entry


def _scoring(source: str, split: str) -> str:
    first = next(iter(read_records(source, split)), None)
    if first is None:
        raise DataError(f"{source}: contains no records; give at least one")
    found = first.fields
    if "text" in found and "label" in found:
        return "classification"
    if "question" in found and "answer" in found and ("choices" in found or {"A", "B"} <= found.keys()):
        return "multiple_choice"
    return "exact_match"


def _labelled(source: str, split: str, suite: Suite) -> list[dict[str, Any]]:
    """Return the texts and labels of a source, all labels as text."""
    rows = []
    for record in read_records(source, split):
        sample = suite.reader(record)
        if sample is not None:
            rows.append({"id": record.fields.get("id"), "text": sample.question, "label": sample.expected})
    return rows


def _asked(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "completion": sample.expected,
        "category": sample.category,
    }


def _write(rows: Iterable[Mapping[str, Any]], path: Path) -> Path:
    with replacing(path) as draft:
        draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.absolute()) if path.exists() else source
