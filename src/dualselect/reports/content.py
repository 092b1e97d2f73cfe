"""What the page's templates are given, gathered from a run or a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualselect.data.disjoint import REFERENCES, TASK
from dualselect.reports.agreement import agreements
from dualselect.reports.answers import Column, answer_table
from dualselect.reports.figures import compared_plots, kept_plot, metric_plots, planes
from dualselect.reports.measures import (
    Measure,
    compare_measures,
    headline_measures,
    names_of,
    run_measures,
    series_of,
)
from dualselect.reports.samples import categories_of
from dualselect.reports.selection import dropped_rows, kept_lines, reference_table, unusable_samples
from dualselect.reports.settings import (
    fact_groups,
    flat_settings,
    lede_of_comparison,
    lede_of_run,
    method_facts,
    tags_of_run,
)
from dualselect.runs.dropped import DROPPED_SHOWN, most_dropped
from dualselect.runs.folder import START, CompareFolder, RunFolder
from dualselect.runs.results import TRAINING, SuiteResult

_SECTIONS = (
    ("summary", "At a glance", None),
    ("plane", "Safety and utility", "planes"),
    ("measures", "Measures", "suites"),
    ("curves", "Training", "curves"),
    ("selection", "Selection", "selection"),
    ("agreement", "Judges", "agreement"),
    ("answers", "Answers", "answers"),
    ("settings", "Settings", None),
    ("glossary", "Glossary", None),
)


def run_content(run: RunFolder, *, texts: bool = True) -> dict[str, Any]:
    """Return what the page of a run shows, with or without the texts of prompts and answers."""
    measures = run_measures(run.results)
    roles = [role for role in ("start", "baseline", "model") if any(result.role == role for result in run.results)]
    names = names_of(run.results)
    colours = {"start": 0, "baseline": 2, "model": 1}
    columns = [
        Column(names[role], colours[role], [result for result in run.results if result.role == role]) for role in roles
    ]
    content = _common(measures, run.results) | {
        "title": _title(run.path),
        "is_comparison": False,
        "lead": names.get("model"),
        "lede": lede_of_run(run, measures),
        "tags": tags_of_run(run),
        "curves": metric_plots(run.metrics),
        "selection": _selection(run),
        "answers": answer_table(columns, names.get("baseline", "baseline"), texts=texts),
        "fact_groups": fact_groups(run),
        "config": flat_settings(run.config),
        "notes": run.notes,
    }
    return content | {"sections": _sections(content)}


def comparison_content(folder: CompareFolder, *, texts: bool = True) -> dict[str, Any]:
    """Return what the page of a comparison shows, with or without the texts of prompts and answers."""
    measures = compare_measures(folder)
    series = series_of(folder.methods)
    runs = folder.runs
    seed = _seed_to_show(folder)
    shown = {cell.method: run for cell, run in runs if cell.seed == seed}
    columns = [Column(START, 0, folder.start)] if folder.start else []
    columns += [Column(name, series[name], _own(shown[name].results)) for name in folder.methods if name in shown]
    grid = {(cell.method, cell.seed): cell for cell in folder.cells}
    first = runs[0] if runs else None
    content = _common(measures, [*folder.start, *(result for _, run in runs for result in _own(run.results))]) | {
        "title": _title(folder.path),
        "is_comparison": True,
        "lead": None,
        "lede": lede_of_comparison(folder, measures),
        "tags": [f"{len(folder.methods)} methods", f"{len(folder.seeds)} seeds", f"baseline {folder.baseline}"],
        "curves": compared_plots([(cell.method, series[cell.method], run.metrics) for cell, run in runs]),
        "selection": None,
        "answers": answer_table(columns, folder.baseline, texts=texts),
        "answers_of": f"seed {seed}",
        "fact_groups": [
            ("Methods", method_facts(shown.items())),
            *(group for group in (fact_groups(first[1]) if first else []) if group[0] != "Method"),
        ],
        "config": flat_settings(first[1].config) if first else [],
        "settings_of": f"{first[0].method}, seed {first[0].seed}" if first else None,
        "cells": [(method, [grid.get((method, seed)) for seed in folder.seeds]) for method in folder.methods],
        "seeds": folder.seeds,
        "series": series,
        "baseline": folder.baseline,
        "notes": [*folder.notes, "selection logs: see the report of each run, `dualselect report <its folder>`"],
    }
    return content | {"sections": _sections(content)}


def _common(measures: list[Measure], results: Sequence[SuiteResult]) -> dict[str, Any]:
    headlines = headline_measures(measures)
    suites: list[dict[str, Any]] = []
    for name, kind in dict.fromkeys((measure.suite, measure.kind) for measure in measures):
        own = [measure for measure in measures if (measure.suite, measure.kind) == (name, kind)]
        others = list(dict.fromkeys(other for measure in own for row in measure.rows for other in row.differences))
        rows = [row for measure in own for row in measure.rows]
        missing = any(row.estimate.missing for row in rows)
        corrected = any(difference.p_holm is not None for row in rows for difference in row.differences.values())
        suites.append(
            {"name": name, "kind": kind, "measures": own, "others": others}
            | {"missing": missing, "corrected": corrected}
        )
    return {
        "measures": measures,
        "suites": [suite for suite in suites if suite["kind"] != TRAINING],
        "took": [suite for suite in suites if suite["kind"] == TRAINING],
        "headlines": headlines,
        "planes": planes(headlines),
        "agreement": agreements(results),
    }


def _selection(run: RunFolder) -> dict[str, Any] | None:
    if run.tasks is None and run.references is None:
        return None
    task, reference = (categories_of(run.categories, role) for role in (TASK, REFERENCES))
    lines = [] if run.tasks is None else kept_lines(run.tasks, task)
    dropped = [] if run.tasks is None else most_dropped(run.tasks, run.references, DROPPED_SHOWN)
    return {
        "references": None if run.references is None else reference_table(run.references, reference),
        "kept": kept_plot(lines) if lines else None,
        "unusable": {} if run.tasks is None else unusable_samples(run.tasks),
        "dropped": dropped_rows(dropped, run.conflicts, task, reference),
        "has_conflicts": run.conflicts is not None,
    }


def _seed_to_show(folder: CompareFolder) -> int | None:
    """Return the seed under which most methods are done, the first of several."""
    done = [cell.seed for cell, _ in folder.runs]
    return max(folder.seeds, key=done.count) if done else None


def _own(results: list[SuiteResult]) -> list[SuiteResult]:
    return [result for result in results if result.role == "model"]


def _sections(content: dict[str, Any]) -> list[tuple[str, str]]:
    there = {name: bool(content.get(name)) for name in ("planes", "suites", "selection", "agreement")}
    there["curves"] = bool(content["curves"] or content["took"])
    there["answers"] = bool(content["answers"]["rows"])
    return [(anchor, title) for anchor, title, needs in _SECTIONS if needs is None or there[needs]]


def _title(path: Path) -> str:
    return path.resolve().name
