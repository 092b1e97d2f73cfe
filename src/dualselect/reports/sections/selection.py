"""What a run selected: references by category and refresh, task samples over time, and the most dropped samples."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa

from dualselect.data.disjoint import REFERENCES, TASK
from dualselect.data.identity import is_planted
from dualselect.reports.sections.base import Section, Subject
from dualselect.reports.sections.curves import DASHES, Curve, Plot, curves_plot
from dualselect.runs.dropped import DROPPED_SHOWN, DroppedSample, most_dropped
from dualselect.runs.folder import RunFolder

REFRESHES_SHOWN = 12
CATEGORIES_SHOWN = 12
TASK_LINES = 6
CONFLICTS_SHOWN = 3
BINS = 24
OTHERS = "all others"
UNKNOWN = "no category"
#: Category shown for samples planted to attack a run, instead of their own, which names their topic.
PLANTED = "poison"

_NUMBERED = re.compile(r"(?P<name>[A-Za-z][A-Za-z_ -]*)-\d+")

Category = Callable[[str], str]


@dataclass(frozen=True)
class HeatCell:
    """The references of a category that one refresh chose.

    Attributes:
        chosen: Number of references chosen.
        pool: Number of references of the category that it could choose from.
        conflict: Mean conflict of the category; None where the references were chosen without measuring it.
    """

    chosen: int
    pool: int
    conflict: float | None

    @property
    def share(self) -> float:
        """The chosen share of the category."""
        return self.chosen / self.pool if self.pool else 0.0


@dataclass(frozen=True)
class ReferenceTable:
    """References chosen, category by refresh.

    Attributes:
        steps: Steps of the refreshes shown.
        refreshes: Number of all refreshes.
        rows: Cells by category, one for every refresh shown.
    """

    steps: list[int]
    refreshes: int
    rows: dict[str, list[HeatCell]]


@dataclass(frozen=True)
class KeptLine:
    """The share of a category's candidates that were kept, over steps."""

    category: str
    steps: list[float]
    shares: list[float]
    kept: int
    seen: int


@dataclass(frozen=True)
class Conflict:
    """A reference, and the cosine of its gradient with that of a sample."""

    id: str
    category: str
    cosine: float


@dataclass(frozen=True)
class DroppedRow:
    """A sample that was dropped often, and the chosen references that it conflicts with most, the lowest cosine first.

    The list is empty where conflicts were not measured.
    """

    sample: DroppedSample
    category: str
    conflicts: list[Conflict]


def section(subject: Subject) -> Section | None:
    """Return the section of what a run selected; None for a comparison, and without a selection log."""
    runs = [] if subject.folder.is_comparison else [run for _, run in subject.folder.runs]
    logged = [run for run in runs if run.tasks is not None or run.references is not None]
    if not logged:
        return None
    return Section("selection", "Selection", "What was selected", _content(logged[0]))


def categories_of(run: RunFolder, role: str) -> Category:
    """Return a function from the id of a sample to its category.

    Planted samples are `poison`; the others have the category that their run recorded, else the beginning of their id:
    `violence` for `violence-01`.

    Args:
        run: Run that logged the samples.
        role: Role of the samples, `task` or `references`.
    """

    def category(name: str) -> str:
        if run.planted.get((role, name), is_planted(name)):
            return PLANTED
        match = _NUMBERED.fullmatch(name)
        return run.categories.get((role, name)) or (match["name"] if match else UNKNOWN)

    return category


def kept_plot(lines: list[KeptLine]) -> Plot:
    """Return the share of every category that was kept over the run."""
    curves = [
        Curve(f"{line.category} ({line.kept} of {line.seen})", 1 + place, line.steps, line.shares, place % len(DASHES))
        for place, line in enumerate(lines)
    ]
    note = "share of the candidates of a category, by spans of steps"
    return curves_plot("kept", "Task samples kept over time", note, curves, is_share=True)


def reference_table(references: pa.Table, category: Category) -> ReferenceTable:
    """Return how many references of every category each refresh chose, the largest categories first."""
    by_step = _by_step(references)
    steps = _spread(sorted(by_step), REFRESHES_SHOWN)
    # Over all refreshes, since each may have scored other references of a large pool.
    sizes = Counter(category(name) for name in dict.fromkeys(references["id"].to_pylist()))
    named = _largest(sizes, CATEGORIES_SHOWN)
    grid: dict[str, list[HeatCell]] = {name: [] for name in named}
    for step in steps:
        groups = defaultdict(list)
        for row in by_step[step]:
            groups[_named(category(row["id"]), named)].append(row)
        for name in named:
            grid[name].append(_cell(groups[name]))
    return ReferenceTable(steps, len(by_step), grid)


def kept_lines(tasks: pa.Table, category: Category) -> list[KeptLine]:
    """Return the share kept of every category over the run, in at most 24 spans of steps."""
    rows = tasks.select(["step", "id", "kept"]).to_pylist()
    first, last = rows[0]["step"], rows[-1]["step"]
    width = max(1, -(-(last - first + 1) // BINS))
    named = _largest(Counter(category(row["id"]) for row in rows), TASK_LINES)
    counts: dict[str, dict[int, list[int]]] = {name: defaultdict(lambda: [0, 0]) for name in named}
    for row in rows:
        count = counts[_named(category(row["id"]), named)][(row["step"] - first) // width]
        count[0] += row["kept"]
        count[1] += 1
    lines = []
    for name, bins in counts.items():
        spans = sorted(bins)
        middles = [first + span * width + (width - 1) / 2 for span in spans]
        shares = [bins[span][0] / bins[span][1] for span in spans]
        kept, seen = (sum(bins[span][side] for span in spans) for side in (0, 1))
        lines.append(KeptLine(name, middles, shares, kept, seen))
    return lines


def dropped_rows(
    dropped: list[DroppedSample], conflicts: pa.Table | None, category: Category, reference_category: Category
) -> list[DroppedRow]:
    """Return samples that were dropped, in their order, each beside the references that it conflicts with most."""
    by_sample: dict[str, list[Conflict]] = defaultdict(list)
    for row in [] if conflicts is None else conflicts.sort_by("cosine").to_pylist():
        if math.isfinite(row["cosine"]) and len(by_sample[row["id"]]) < CONFLICTS_SHOWN:
            by_sample[row["id"]].append(Conflict(row["reference"], reference_category(row["reference"]), row["cosine"]))
    return [DroppedRow(sample, category(sample.id), by_sample[sample.id]) for sample in dropped]


def unusable_samples(tasks: pa.Table) -> dict[str, int]:
    """Return how often candidates were dropped for each logged reason, such as a loss that is not finite."""
    return dict(Counter(reason for reason in tasks["dropped_reason"].to_pylist() if reason))


def _content(run: RunFolder) -> dict[str, Any]:
    task, reference = (categories_of(run, role) for role in (TASK, REFERENCES))
    lines = [] if run.tasks is None else kept_lines(run.tasks, task)
    dropped = [] if run.tasks is None else most_dropped(run.tasks, run.references, DROPPED_SHOWN)
    return {
        "references": None if run.references is None else reference_table(run.references, reference),
        "kept": kept_plot(lines) if lines else None,
        "unusable": {} if run.tasks is None else unusable_samples(run.tasks),
        "dropped": dropped_rows(dropped, run.conflicts, task, reference),
        "has_conflicts": run.conflicts is not None,
    }


def _by_step(references: pa.Table) -> dict[int, list[dict[str, Any]]]:
    by_step: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in references.to_pylist():
        by_step[row["step"]].append(row)
    return dict(by_step)


def _spread(steps: list[int], limit: int) -> list[int]:
    """Return at most `limit` of the steps, evenly spread, with the first and the last."""
    if len(steps) <= limit:
        return steps
    return [steps[round(place * (len(steps) - 1) / (limit - 1))] for place in range(limit)]


def _largest(sizes: Counter[str], limit: int) -> list[str]:
    """Return the names of the largest categories; where there are more than `limit`, the last one means the rest."""
    names = [name for name, _ in sizes.most_common()]
    return names if len(names) <= limit else [*names[: limit - 1], OTHERS]


def _named(category: str, named: list[str]) -> str:
    return category if category in named else OTHERS if OTHERS in named else named[-1]


def _cell(rows: list[dict[str, Any]]) -> HeatCell:
    cosines = [row["cosine"] for row in rows if row["cosine"] is not None and math.isfinite(row["cosine"])]
    return HeatCell(sum(row["kept"] for row in rows), len(rows), -fmean(cosines) if cosines else None)
