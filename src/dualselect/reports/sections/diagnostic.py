"""What a diagnostic found: do different task batches put different references at risk, and does it pay to know?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dualselect.reports.sections.base import Section
from dualselect.reports.sections.curves import WIDTH, Plot
from dualselect.reports.sections.diagnostic_panels import (
    OVERLAP_KEYS,
    Scale,
    correction_keys,
    heatmap_grid,
    overlap_panel,
    reduction_scale,
    reductions_panel,
)
from dualselect.reports.svg import PAGE, drawing, inline_svg
from dualselect.runs.diagnostic import ACROSS, DIFFERENCE, WITHIN
from dualselect.runs.diagnostic_folder import DiagnosticFolder
from dualselect.statistics.formats import NO_VALUE, number_text, p_text

Row = dict[str, Any]


@dataclass(frozen=True)
class OverlapLine:
    """The overlap of a strategy's choices, as text."""

    strategy: str
    within: str
    across: str
    random: str
    difference: str
    p: str


@dataclass(frozen=True)
class Heatmap:
    """What the leading strategy chose: shares of the categories for each group, a row a group; and their test."""

    categories: list[str]
    rows: list[tuple[str, list[float]]]
    most: float
    test: str


@dataclass(frozen=True)
class ReductionLine:
    """The reduction by a strategy, as text."""

    strategy: str
    correction: str
    mean: str
    median: str
    p90: str
    wins: str
    n: int
    difference: str
    p: str


def section(content: DiagnosticFolder) -> Section:
    """Return the section of overlaps, categories and reductions."""
    scale = reduction_scale(content.reductions)
    return Section(
        "diagnostic",
        "Diagnostic",
        "Do different tasks put different references at risk?",
        {
            "lead": content.lead,
            "overlap": overlap_plot(content.overlap) if content.overlap else None,
            "overlap_lines": overlap_lines(content.overlap),
            "heatmap": heatmap(content),
            "reductions": reductions_plot(content.reductions) if content.reductions else None,
            "reduction_lines": reduction_lines(content.reductions, scale),
            "unit": scale.unit,
            "drift": drift_text(content),
        },
    )


def overlap_plot(overlap: Sequence[Row]) -> Plot:
    """Return the overlaps as a plot."""
    lines = overlap_lines(overlap)
    label = "; ".join(f"{one.strategy}: {one.within} within, {one.across} across groups" for one in lines)
    with drawing(WIDTH, 90 + 38 * len(lines)) as figure:
        overlap_panel(overlap, figure.subplots(), PAGE)
        svg = inline_svg(figure, "overlap", f"Overlap of chosen references: {label}")
    note = "Jaccard index of what is chosen for two batches, mean over pairs; 1 is the same choice"
    return Plot("Overlap of chosen references", note, svg, list(OVERLAP_KEYS))


def overlap_lines(overlap: Sequence[Row]) -> list[OverlapLine]:
    """Return the overlaps of every strategy over all groups."""
    found = {(row["strategy"], row["scope"]): row for row in overlap if not row["group"]}
    none: Row = {"jaccard": math.nan, "expected": math.nan, "p_value": math.nan}
    lines = []
    for strategy in dict.fromkeys(row["strategy"] for row in overlap):
        within, across, difference = (found.get((strategy, scope), none) for scope in (WITHIN, ACROSS, DIFFERENCE))
        lines.append(
            OverlapLine(
                strategy,
                _index(within["jaccard"]),
                _index(across["jaccard"]),
                _index(within["expected"] if math.isfinite(within["expected"]) else across["expected"]),
                _index(difference["jaccard"], signed=True),
                p_text(difference["p_value"]),
            )
        )
    return lines


def heatmap(content: DiagnosticFolder) -> Heatmap | None:
    """Return what the leading strategy chose; None where that is not known."""
    groups, categories, shares = heatmap_grid(content.heatmap, content.lead)
    if not groups:
        return None
    most = max(share for row in shares for share in row)
    return Heatmap(categories, list(zip(groups, shares, strict=True)), most, test_text(content))


def reductions_plot(reductions: Sequence[Row]) -> Plot:
    """Return the reductions as a plot."""
    scale, keys = reduction_scale(reductions), correction_keys(reductions)
    strategies = {row["strategy"] for row in reductions}
    label = "; ".join(
        f"{row['strategy']}, {row['correction']}: {scale.with_interval(row['mean'], row['low'], row['high'])}"
        for row in reductions
    )
    with drawing(WIDTH, 90 + (26 + 12 * len(keys)) * len(strategies)) as figure:
        reductions_panel(reductions, figure.subplots(), PAGE)
        svg = inline_svg(figure, "reductions", f"Reduction of the KL in {scale.unit}: {label}")
    note = "KL after the task alone minus KL with the chosen references, mean over batches with 95% interval"
    return Plot("KL on the held-out probe", note, svg, list(keys))


def reduction_lines(reductions: Sequence[Row], scale: Scale) -> list[ReductionLine]:
    """Return the reductions of every strategy and correction."""
    return [
        ReductionLine(
            row["strategy"],
            row["correction"],
            scale.with_interval(row["mean"], row["low"], row["high"]),
            scale.text(row["median"]),
            scale.text(row["p90"]),
            f"{row['wins']:.0%}",
            row["n"],
            scale.with_interval(row["difference"], row["difference_low"], row["difference_high"]),
            p_text(row["p_value"]),
        )
        for row in reductions
    ]


def drift_text(content: DiagnosticFolder) -> str:
    """Return how far the task alone moves the model away from the aligned one; empty where it was not measured."""
    drifts = content.drifts
    if not drifts:
        return ""
    before, after = (sum(getattr(one, name) for one in drifts) / len(drifts) for name in ("kl_before", "kl_after"))
    steps = drifts[0].steps
    return (
        f"{steps} step{'' if steps == 1 else 's'} on a batch alone move the KL from {before:.3g} to {after:.3g} nats "
        f"per token, mean over {len(drifts)} batches."
    )


def test_text(content: DiagnosticFolder) -> str:
    """Return how the chosen categories depend on the task group; empty where that was not tested."""
    test = content.associations.get(content.lead, {})
    if not math.isfinite(test.get("cramers_v") or math.nan):
        return ""
    p = test.get("permutation_p_value", test["p_value"])
    return f"Cramér's V {test['cramers_v']:.2f}, p {p_text(p)} by permutation"


def _index(value: float, *, signed: bool = False) -> str:
    return number_text(value, 3, signed=signed) if math.isfinite(value) else NO_VALUE
