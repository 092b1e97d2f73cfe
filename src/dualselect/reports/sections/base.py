"""The input of every section of the page, and the section itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dualselect.reports.formats import finding, tone, typeset
from dualselect.runs.estimates import Difference, Row
from dualselect.runs.folder import Folder
from dualselect.runs.results import START, Metric
from dualselect.runs.win_rates import is_win_rate
from dualselect.statistics.formats import difference_text, interval_text, value_text


@dataclass(frozen=True)
class Measure:
    """The rows of one metric of one suite, with the places and words that they have on the page."""

    rows: list[Row]

    @property
    def suite(self) -> str:
        """Name of the suite."""
        return self.rows[0].suite

    @property
    def kind(self) -> str:
        """Kind of the suite."""
        return self.rows[0].kind

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.rows[0].name

    @property
    def metric(self) -> Metric:
        """What the values mean."""
        return self.rows[0].metric

    @property
    def is_win_rate(self) -> bool:
        """Whether equals have one half."""
        return is_win_rate(self.name)

    @property
    def axis(self) -> tuple[float, float]:
        """The range that its intervals are drawn on: all of 0..1 for shares, else from zero or just around them."""
        if self.metric.unit == "share":
            return 0.0, 1.0
        points = [point for row in self.rows for point in (row.estimate.low, row.estimate.value, row.estimate.high)]
        finite = [point for point in points if math.isfinite(point)]
        low, high = min([*finite, 0.0]), max([*finite, 0.0])
        if low == high == 0:
            return 0.0, 1.0
        room = 0.05 * (high - low)
        return low - (room if low < 0 else 0), high + (room if high > 0 else 0)

    @property
    def distinct_rows(self) -> list[Row]:
        """The rows, or one for all of them where three or more say the same to the last digit."""
        said = {(self.value_text(row), self.interval_text(row), row.estimate.n) for row in self.rows}
        if len(said) > 1 or len(self.rows) < 3:
            return self.rows
        return [replace(self.rows[-1], method=f"all {len(self.rows)}", differences=(), by_seed=())]

    def place(self, value: float) -> float:
        """Return where a value lies on the axis, in percent of its length."""
        low, high = self.axis
        return round(min(max(100 * (value - low) / (high - low), 0.0), 100.0), 2)

    def span(self, row: Row) -> tuple[float, float] | None:
        """Return where a row's interval begins and ends on the axis, None where it has none."""
        if not row.estimate.has_interval:
            return None
        return self.place(row.estimate.low), self.place(row.estimate.high)

    def value_text(self, row: Row) -> str:
        """Return a row's value with its unit."""
        return typeset(value_text(row.estimate.value, self.metric.unit))

    def interval_text(self, row: Row) -> str:
        """Return a row's interval."""
        return typeset(interval_text(row.estimate.low, row.estimate.high, self.metric.unit))

    def difference_text(self, difference: Difference) -> str:
        """Return a difference with its interval."""
        return typeset(difference_text(difference.estimate, self.metric.unit))

    def finding(self, difference: Difference) -> str:
        """Return what a difference shows, in a word."""
        return finding(difference, self.metric)

    def tone(self, difference: Difference) -> str:
        """Return the class that colours what a difference shows."""
        return tone(self.finding(difference))


@dataclass(frozen=True)
class Subject:
    """What a page is about.

    Attributes:
        folder: Comparison, or run as a comparison of one method.
        measures: Measures, in the order shown.
        series: Number of each model's colour.
        texts: Whether prompts and answers may be shown.
    """

    folder: Folder
    measures: list[Measure]
    series: dict[str, int]
    texts: bool = True


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        anchor: Anchor for links; the template is `<anchor>.html.j2`.
        link: Name in the navigation.
        heading: Heading of the section.
        content: Context of the template.
        data: Data for the page's script, in the types of JSON; None where it needs none.
    """

    anchor: str
    link: str
    heading: str
    content: dict[str, Any]
    data: dict[str, Any] | None = None


def series_of(names: Sequence[str], lead: str | None = None) -> dict[str, int]:
    """Return the number of the colour of each model: the start is grey, number 0; the lead is number 1."""
    others = [name for name in names if name not in (START, lead)]
    coloured = others if lead is None else [lead, *others]
    return {START: 0} | {name: 1 + place % 8 for place, name in enumerate(coloured)}
