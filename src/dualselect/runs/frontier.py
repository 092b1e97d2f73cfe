"""The frontier of a comparison: every method's safety against utility over its strengths, in `frontier.json`.

`frontier.csv` contains its points alone, one a line, for spreadsheets.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualselect.errors import DataError
from dualselect.files import replacing
from dualselect.runs.results import Metric
from dualselect.statistics.estimates import Estimate

FILE, CSV_FILE = "frontier.json", "frontier.csv"
FIGURE = "figure-frontier"


@dataclass(frozen=True)
class Axis:
    """What one side of the frontier measures."""

    suite: str
    name: str
    metric: Metric

    @property
    def sign(self) -> int:
        """The factor that makes larger values better."""
        return -1 if self.metric.better == "lower" else 1


@dataclass(frozen=True)
class Point:
    """A method at a strength, on the test prompts.

    Attributes:
        method: Label of the method, `start` for the aligned start.
        strength: Name of the strength; None where none is varied.
        safety: Mean safety.
        utility: Mean utility.
        tuned_safety: Mean safety on the validation prompts; None where it was not chosen by, as for the start.
        tuned_utility: Mean utility on the validation prompts.
        keeps_utility: Whether the validation utility is no worse than plain SFT's by more than the margin.
        is_chosen: Whether it is the strength of its method that the tables show.
        on_front: Whether no other strength of the method dominates it.
        on_overall_front: Whether no point of any method dominates it.
        seconds: Mean training time in seconds; None where it was not timed.
        sft_steps: The same in steps of plain SFT.
        task_tokens: Mean share of a step's supervised task tokens that was trained on; None where no step selects.
    """

    method: str
    strength: str | None
    safety: Estimate
    utility: Estimate
    tuned_safety: float | None = None
    tuned_utility: float | None = None
    keeps_utility: bool | None = None
    is_chosen: bool = False
    on_front: bool = False
    on_overall_front: bool = False
    seconds: float | None = None
    sft_steps: float | None = None
    task_tokens: float | None = None


@dataclass(frozen=True)
class Area:
    """The hypervolume of a method, and its difference from the baseline's.

    Attributes:
        method: Label of the method.
        estimate: Hypervolume, with interval.
        difference: Difference from the baseline's; None for the baseline.
        p_holm: P-value of the difference, adjusted for the number of methods.
    """

    method: str
    estimate: Estimate
    difference: Estimate | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Frontier:
    """All strengths of all methods, and how they were chosen between.

    Attributes:
        safety: Axis of safety.
        utility: Axis of utility.
        methods: Labels of all methods, in their order.
        sft: Label of plain SFT.
        baseline: Label that the others are compared with.
        validation: Prompts of each suite to choose by: a share below 1, or a count.
        margin: Utility that a strength may lose against plain SFT.
        reference: Safety and utility from which hypervolume is measured.
        points: Points, the start first.
        areas: Hypervolumes of the methods.
    """

    safety: Axis
    utility: Axis
    methods: Sequence[str]
    sft: str
    baseline: str
    validation: float
    margin: float
    reference: tuple[float, float]
    points: Sequence[Point]
    areas: Sequence[Area]

    @property
    def bound(self) -> float | None:
        """The test utility of plain SFT, worse by the margin; None where plain SFT was not measured."""
        found = [point.utility.value for point in self.points if point.method == self.sft]
        return found[0] - self.utility.sign * self.margin if found else None

    @property
    def chosen(self) -> list[Point]:
        """The chosen point of every method."""
        return [point for point in self.points if point.is_chosen]


def write_frontier(frontier: Frontier, folder: Path) -> None:
    """Write `frontier.json` and `frontier.csv` into a comparison's folder."""
    text = json.dumps(_finite(asdict(frontier)), indent=1, ensure_ascii=False)
    with replacing(folder / FILE) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    with replacing(folder / CSV_FILE) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        lines = [_line(point) for point in frontier.points]
        writer = csv.DictWriter(file, list(lines[0]) if lines else ["method"])
        writer.writeheader()
        writer.writerows(lines)


def read_frontier(folder: Path) -> Frontier | None:
    """Return the frontier of a comparison; None where no strength is varied.

    Raises:
        DataError: The file cannot be used.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        first, second = content["reference"]
        made = {
            "safety": _axis(content["safety"]),
            "utility": _axis(content["utility"]),
            "reference": (first, second),
            "points": [Point(**_with_estimates(point, "safety", "utility")) for point in content["points"]],
            "areas": [Area(**_with_estimates(area, "estimate", "difference")) for area in content["areas"]],
        }
        return Frontier(**content | made)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not a frontier ({error!r}); write it again with `dualselect compare`") from error


def _line(point: Point) -> dict[str, Any]:
    plain = _finite(asdict(point))
    for side in ("safety", "utility"):
        estimate = plain.pop(side)
        plain |= {side: estimate["value"], f"{side}_low": estimate["low"], f"{side}_high": estimate["high"]}
        plain |= {f"{side}_n": estimate["n"], "seeds": estimate["seeds"]}
    return plain


def _axis(content: dict[str, Any]) -> Axis:
    return Axis(content["suite"], content["name"], Metric(**content["metric"]))


def _with_estimates(content: dict[str, Any], *names: str) -> dict[str, Any]:
    return content | {name: _estimate(content[name]) for name in names}


def _estimate(content: dict[str, Any] | None) -> Estimate | None:
    if content is None:
        return None
    ends = {name: math.nan if content[name] is None else content[name] for name in ("low", "high")}
    return Estimate(**content | ends)


def _finite(content: Any) -> Any:
    """Return plain values with None for NaN, which JSON does not have."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
