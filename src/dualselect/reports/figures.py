"""Figures as files of their own, in the page's style with the colours of its light form."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dualselect.files import replacing
from dualselect.reports.svg import drawing

FORMATS = ("svg", "png", "pdf")
DPI = 200

_TEXT, _MUTED, _LINE, _SURFACE = "#1c1f24", "#5c626b", "#e2e2dc", "#ffffff"
_SERIES = ("#7b818a", "#0b7a80", "#c8711a", "#5a55b5", "#b23a63", "#4d7d1f", "#2f6cb3", "#8a6a0c", "#7d4a86")
_STYLE: Any = {
    "text.color": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.facecolor": _SURFACE,
    "figure.facecolor": _SURFACE,
    "savefig.facecolor": _SURFACE,
    "grid.color": _LINE,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "pdf.fonttype": 42,  # letters stay letters
}


def printed_colour(series: int) -> str:
    """Return the colour of series `series` on paper; 0 is grey."""
    return _SERIES[series % len(_SERIES)]


@contextmanager
def printing(stem: Path, width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure and write it beside `stem` as SVG, PNG and PDF; equal figures are equal files.

    Args:
        stem: Path without the ending.
        width: Width in points.
        height: Height in points.
    """
    import matplotlib

    with drawing(width, height) as figure, matplotlib.rc_context({**_STYLE, "svg.hashsalt": stem.name}):
        figure.set_facecolor(_SURFACE)
        yield figure
        for kind in FORMATS:
            dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
            with replacing(stem.with_name(f"{stem.name}.{kind}")) as draft:
                figure.savefig(draft, format=kind, dpi=DPI, metadata=dates.get(kind))
