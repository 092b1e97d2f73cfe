"""Figures as files of their own, in the page's style with the colours of its light form."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dualselect.reports.svg import drawing, paper, write_drawing

FORMATS = ("pdf", "svg", "png")


def printed_colour(series: int) -> str:
    """Return the colour of series `series` on paper; 0 is grey."""
    colours = paper().series
    return colours[series % len(colours)]


@contextmanager
def printing(stem: Path, width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure and write it beside `stem` as PDF, SVG and PNG; equal figures are equal files.

    Args:
        stem: Path without the ending.
        width: Width in points.
        height: Height in points.
    """
    with drawing(width, height, paper()) as figure:
        yield figure
        for kind in FORMATS:
            write_drawing(figure, stem.with_name(f"{stem.name}.{kind}"))
