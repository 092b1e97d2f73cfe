"""What a diagnostic found: do different task batches put different references at risk, and does it pay to know?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
from dualselect.reports.sections.settings import Facts, flat_settings, made_with, mapping, plain_text
from dualselect.reports.svg import PAGE, drawing, inline_svg
from dualselect.runs.diagnostic import ACROSS, DIFFERENCE, PROBE, REFERENCES, WITHIN
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


def lede(content: DiagnosticFolder) -> str:
    """Return the outcome in a few sentences."""
    found = [_overlap_sentence(content), _categories_sentence(content), _reductions_sentence(content)]
    return " ".join(filter(None, found)) or "Nothing has been measured yet."


def tags(content: DiagnosticFolder) -> list[str]:
    """Return what the page says of a diagnostic in a few words."""
    config, sets, batches = content.config, mapping(content.resources, "sets"), mapping(content.resources, "batches")
    found = [Path(str(config["model_name_or_path"])).name] if config.get("model_name_or_path") else []
    if batches:
        found.append(f"{sum(batches['by_group'].values())} batches of {batches['size']}")
    nouns = {REFERENCES: "references", PROBE: "probe prompts"}
    found += [f"{sets[name]['used']} {noun}" for name, noun in nouns.items() if name in sets]
    return found + ([f"seed {config['seed']}"] if "seed" in config else [])


def settings(content: DiagnosticFolder) -> Section:
    """Return the section of the sets, the projection, settings and provenance."""
    groups = [
        ("Data", _set_facts(content)),
        ("Projection of gradients", [(name, plain_text(value)) for name, value in content.projection.items()]),
        ("Stages", [(name, _stage_text(stage)) for name, stage in content.stages.items()]),
        ("Made with", made_with(content.provenance)),
    ]
    return Section(
        "settings",
        "Settings",
        "Settings and provenance",
        {
            "settings_of": None,
            "fact_groups": [(heading, facts) for heading, facts in groups if facts],
            "config": flat_settings(content.config),
            "notes": content.notes,
        },
    )


def _set_facts(content: DiagnosticFolder) -> Facts:
    facts = []
    for name, one in mapping(content.resources, "sets").items():
        labels = one.get("groups") or one.get("categories") or {}
        counts = ", ".join(f"{label} {count}" for label, count in labels.items())
        facts.append((name, f"{one['used']} of {one['samples']} samples: {counts}"))
    for shared in content.resources.get("shared_prompts", []):
        facts.append(
            (
                f"prompts shared by {' and '.join(shared['sets'])}",
                f"{shared['before']}, of which {shared['after']} are left",
            )
        )
    return facts


def _stage_text(stage: Any) -> str:
    return f"done in {stage['seconds']:g} s" if stage.get("done") else "not done"


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
    return Heatmap(categories, list(zip(groups, shares, strict=True)), most, _test_text(content) or "")


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


def _overlap_sentence(content: DiagnosticFolder) -> str:
    line = next((one for one in overlap_lines(content.overlap) if one.strategy == content.lead), None)
    if line is None:
        return ""
    return (
        f"What {line.strategy} chooses for two batches has a Jaccard index of {line.within} within a task group and "
        f"{line.across} across groups (p of the difference {line.p}); random choices have {line.random}."
    )


def _categories_sentence(content: DiagnosticFolder) -> str:
    test = _test_text(content)
    return f"Chosen safety categories by task group: {test}." if test else ""


def _test_text(content: DiagnosticFolder) -> str:
    test = content.associations.get(content.lead, {})
    if not math.isfinite(test.get("cramers_v") or math.nan):
        return ""
    p = test.get("permutation_p_value", test["p_value"])
    return f"Cramér's V {test['cramers_v']:.2f}, p {p_text(p)} by permutation"


def _reductions_sentence(content: DiagnosticFolder) -> str:
    """Return the reduction by the leading strategy and how the others differ, for the first correction."""
    first = [row for row in content.reductions if row["correction"] == content.reductions[0]["correction"]]
    lead = next((row for row in first if row["strategy"] == content.lead), None)
    if lead is None:
        return ""
    scale = reduction_scale(content.reductions)
    words = {"lower": "less", "higher": "more", "": "no difference shown"}
    by_word: dict[str, list[str]] = {}
    for row in first:
        if row["difference"] is not None:
            by_word.setdefault(words[_direction(row)], []).append(row["strategy"])
    others = "; ".join(f"{word}: {', '.join(names)}" for word, names in by_word.items())
    mean = scale.with_interval(lead["mean"], lead["low"], lead["high"])
    compared = f" Compared with it, {others}." if others else ""
    return f"Its references reduce the KL on the probe by {mean}, in {scale.unit} ({lead['correction']}).{compared}"


def _direction(row: Row) -> str:
    if row["difference_low"] > 0:
        return "higher"
    return "lower" if row["difference_high"] < 0 else ""


def _index(value: float, *, signed: bool = False) -> str:
    return number_text(value, 3, signed=signed) if math.isfinite(value) else NO_VALUE
