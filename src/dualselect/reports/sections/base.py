"""The input of every section of the page, and the section itself."""

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
        folder: Comparison, or run as a comparison of one method.
        measures: Measures, in the order shown.
        series: Number of each model's colour.
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
