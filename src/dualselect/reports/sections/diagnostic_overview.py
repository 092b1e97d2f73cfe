"""A diagnostic in a few sentences, and what it was made from."""

from pathlib import Path
from typing import Any

from dualselect.reports.sections.base import Section
from dualselect.reports.sections.diagnostic import overlap_lines, test_text
from dualselect.reports.sections.diagnostic_panels import reduction_scale
from dualselect.reports.sections.settings import Facts, flat_settings, made_with, mapping
from dualselect.runs.diagnostic import PROBE, REFERENCES
from dualselect.runs.diagnostic_folder import DiagnosticFolder
from dualselect.statistics.formats import NO_DIFFERENCE


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
        ("Projection of gradients", flat_settings(content.projection)),
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


def _overlap_sentence(content: DiagnosticFolder) -> str:
    line = next((one for one in overlap_lines(content.overlap) if one.strategy == content.lead), None)
    if line is None:
        return ""
    return (
        f"What {line.strategy} chooses for two batches has a Jaccard index of {line.within} within a task group and "
        f"{line.across} across groups (p of the difference {line.p}); random choices have {line.random}."
    )


def _categories_sentence(content: DiagnosticFolder) -> str:
    test = test_text(content)
    return f"Chosen safety categories by task group: {test}." if test else ""


def _reductions_sentence(content: DiagnosticFolder) -> str:
    """Return the reduction by the leading strategy and how the others differ, for the first correction."""
    first = [row for row in content.reductions if row["correction"] == content.reductions[0]["correction"]]
    lead = next((row for row in first if row["strategy"] == content.lead), None)
    if lead is None:
        return ""
    scale = reduction_scale(content.reductions)
    by_word: dict[str, list[str]] = {}
    for row in first:
        if row["difference"] is not None:
            by_word.setdefault(_word(row), []).append(row["strategy"])
    others = "; ".join(f"{word}: {', '.join(names)}" for word, names in by_word.items())
    mean = scale.with_interval(lead["mean"], lead["low"], lead["high"])
    compared = f" Compared with it, {others}." if others else ""
    return f"Its references reduce the KL on the probe by {mean}, in {scale.unit} ({lead['correction']}).{compared}"


def _word(row: dict[str, Any]) -> str:
    """Return how a strategy's reduction differs from that of the leading one."""
    if row["difference_low"] > 0:
        return "more"
    return "less" if row["difference_high"] < 0 else NO_DIFFERENCE
