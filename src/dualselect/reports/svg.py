"""Matplotlib figures: as inline SVG in the colours of the page, light and dark, or as files in the light ones."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from dualselect.files import replacing

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_DROPPED = {"metadata", "style"}
_PRESENTATION = {
    "fill", "fill-opacity", "font-size", "font-weight", "opacity", "stroke", "stroke-dasharray", "stroke-dashoffset",
    "stroke-linecap", "stroke-linejoin", "stroke-opacity", "stroke-width", "text-anchor",
}  # fmt: skip

# Colours to draw with: none is ever shown, each is replaced by a variable of the style sheet.
TEXT, MUTED, LINE, SURFACE = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {TEXT: "currentColor", MUTED: "var(--muted)", LINE: "var(--line)", SURFACE: "var(--surface)"}

FONT_SIZE = 11


def series_colour(series: int) -> str:
    """Return the colour to draw series `series` with; on the page it is `var(--s<series>)`."""
    return f"#0000{0xA0 + series:02x}"


class Ink(NamedTuple):
    """The colours of a drawing; those of series by their numbers."""

    text: str
    muted: str
    line: str
    surface: str
    series: tuple[str, ...]


PAGE = Ink(TEXT, MUTED, LINE, SURFACE, tuple(series_colour(number) for number in range(9)))


def paper() -> Ink:
    """Return the colours that the page has when it is light, for drawings that are written to files."""
    style = files("dualselect.reports").joinpath("templates", "style.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--(\w+): light-dark\((#\w+),", style))
    series = tuple(light[f"s{number}"] for number in range(len(PAGE.series)))
    return Ink(light["text"], light["muted"], light["line"], light["surface"], series)


@contextmanager
def drawing(width: float, height: float, ink: Ink = PAGE) -> Iterator[Any]:
    """Yield an empty figure of that size in CSS pixels, in the page's style; nothing global is changed."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(ink)):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure


def write_drawing(figure: Any, path: Path) -> None:
    """Write a figure in the format that the file's name ends in; call it while `drawing` is open.

    Equal figures become equal files. Text stays text.
    """
    import matplotlib

    kind = path.suffix.removeprefix(".")
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    with matplotlib.rc_context({"svg.hashsalt": path.stem, "pdf.fonttype": 42}), replacing(path) as draft:
        figure.savefig(draft, format=kind, dpi=200, metadata=metadata)


def inline_svg(figure: Any, name: str, label: str) -> Markup:
    """Return the figure as an `<svg>` element; call it while `drawing` is open.

    Args:
        figure: Figure of matplotlib.
        name: Name, unique on the page, with which all ids begin.
        label: Description of the figure, for those who cannot see it.
    """
    root = _rendered(figure, name)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child) in _DROPPED:
                parent.remove(child)
    for element in root.iter():
        _restyle(element, name)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    title = ElementTree.Element(f"{{{_SVG}}}title", {"id": f"{name}-title"})
    title.text = label
    root.insert(0, title)
    ElementTree.register_namespace("", _SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # ElementTree has escaped every text


def _style(ink: Ink) -> Any:
    return {
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": FONT_SIZE,
        "text.color": ink.text,
        "axes.edgecolor": ink.line,
        "axes.labelcolor": ink.muted,
        "axes.labelpad": 8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none" if ink == PAGE else ink.surface,
        "grid.color": ink.line,
        "grid.linewidth": 0.8,
        "xtick.color": ink.line,
        "ytick.color": ink.line,
        "xtick.labelcolor": ink.muted,
        "ytick.labelcolor": ink.muted,
        "ytick.major.size": 0,
        "xtick.major.size": 3,
        "lines.linewidth": 2,
        "lines.solid_capstyle": "round",
    }


def _rendered(figure: Any, name: str) -> ElementTree.Element:
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # Text stays text, so that glyphs missing in matplotlib's own font do not matter.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return ElementTree.fromstring(buffer.getvalue())


def _restyle(element: ElementTree.Element, name: str) -> None:
    style = element.attrib.pop("style", "")
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font" and (size := re.search(r"[\d.]+px", value)):
            key, value = "font-size", size.group()
        if key in _PRESENTATION:
            element.set(key, _colour(value))
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.attrib['id']}")
    if _XLINK in element.attrib:
        element.set("href", f"#{name}-{element.attrib.pop(_XLINK).lstrip('#')}")
    clip = element.attrib.get("clip-path", "")
    if clip.startswith("url(#"):
        element.set("clip-path", clip.replace("url(#", f"url(#{name}-"))
    if _local(element) == "text" and "fill" not in element.attrib:
        element.set("fill", "currentColor")


def _colour(value: str) -> str:
    found = value.lower()
    if found in _VARIABLES:
        return _VARIABLES[found]
    if re.fullmatch(r"#0000[a-f][0-9a-f]", found):
        return f"var(--s{int(found[5:], 16) - 0xA0})"
    return value


def _local(element: ElementTree.Element) -> str:
    return element.tag.rsplit("}", 1)[-1]
