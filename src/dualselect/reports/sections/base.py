"""What every section of the page is made from, and what it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dualselect.runs.folder import Folder
from dualselect.runs.results import START

if TYPE_CHECKING:
    from dualselect.reports.sections.measures import Measure


@dataclass(frozen=True)
class Subject:
    """What a page is about.

    Attributes:
        folder: The comparison, or the run as a comparison of one method.
        measures: What was measured, in the order shown.
        series: Number of the colour that stands for each model.
        texts: Whether prompts and answers may be shown.
    """

    folder: Folder
    measures: "list[Measure]"
    series: dict[str, int]
    texts: bool = True


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        anchor: Where links lead; its template is `<anchor>.html.j2`.
        link: Its name in the navigation.
        heading: Its heading.
        content: What its template is given.
        data: What the page's script is given, in the types of JSON; None where it needs nothing.
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
