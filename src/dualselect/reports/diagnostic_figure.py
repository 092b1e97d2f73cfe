"""The figure of a diagnostic for papers and slides: three panels in one, as PDF, SVG and PNG."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dualselect.reports.figures import FORMATS, printing
from dualselect.reports.sections.diagnostic_panels import (
    OVERLAP_KEYS,
    Key,
    correction_keys,
    heatmap_panel,
    overlap_panel,
    reductions_panel,
)
from dualselect.reports.svg import Ink, paper
from dualselect.runs.diagnostic import FIGURE_FILE
from dualselect.runs.diagnostic_folder import DiagnosticFolder, read_diagnostic


class Panel(NamedTuple):
    """A panel: its title, what draws it on axes with ink, and its legend, empty where one entry says nothing."""

    title: str
    draw: Callable[[Any, Ink], None]
    keys: Sequence[Key] = ()


def write_figure(folder: Path) -> list[Path]:
    """Write the figure of a diagnostic into its folder and return the files; a panel without results is left out."""
    content = read_diagnostic(Path(folder))
    panels = panels_of(content)
    if not panels:
        return []
    stem = Path(folder) / FIGURE_FILE
    with printing(stem, *size_of(content)) as figure:
        draw_panels(figure, panels, paper())
    return [stem.with_name(f"{FIGURE_FILE}.{kind}") for kind in FORMATS]


def size_of(content: DiagnosticFolder) -> tuple[float, float]:
    """Return width and height that the panels need in CSS pixels, which depends on how many names they have to show."""
    rows = [*content.strategies], list(dict.fromkeys(row["group"] for row in content.heatmap))
    longest = max(len(name) for names in rows for name in names)
    return len(panels_of(content)) * (260 + 6.5 * longest), 200 + 26 * max(map(len, rows))


def draw_panels(figure: Any, panels: Sequence[Panel], ink: Ink) -> None:
    """Draw panels side by side, each with a letter and its legend."""
    figure.get_layout_engine().set(w_pad=10 / 72, wspace=0.04)
    for letter, axes, panel in zip("abc", figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=False):
        panel.draw(axes, ink)
        axes.set_title(f"({letter}) {panel.title}", loc="left", pad=12, fontsize=12, fontweight="bold")
        axes.tick_params(axis="y", labelcolor=ink.text)
        _add_legend(axes, panel.keys, ink)


def panels_of(content: DiagnosticFolder) -> list[Panel]:
    """Return the panels that there is something to show in."""
    overlap, heatmap, reductions = content.overlap, content.heatmap, content.reductions
    keys = correction_keys(reductions)
    panels = [
        (overlap, Panel("Overlap of chosen references", partial(overlap_panel, overlap), OVERLAP_KEYS)),
        (heatmap, Panel("Safety categories by task group, %", partial(heatmap_panel, heatmap, content.lead))),
        (
            reductions,
            Panel("KL on the held-out probe", partial(reductions_panel, reductions), keys if len(keys) > 1 else ()),
        ),
    ]
    return [panel for rows, panel in panels if rows]


def _add_legend(axes: Any, keys: Sequence[Key], ink: Ink) -> None:
    from matplotlib.lines import Line2D

    if not keys:
        return
    marks = [
        Line2D([], [], color=ink.series[series], marker="o", linestyle="", markersize=7)
        if dash < 0
        else Line2D([], [], color=ink.series[series], marker="|", linestyle="", markersize=11, markeredgewidth=1.6)
        for _, series, dash in keys
    ]
    axes.legend(
        marks,
        [name for name, _, _ in keys],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=2,
        frameon=False,
        fontsize=10,
        handletextpad=0.4,
        columnspacing=1.2,
    )
