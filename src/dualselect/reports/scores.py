"""The scores of a task as one HTML page: their distributions, how far selectors agree, and the suspicious samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from dualselect import __version__
from dualselect.files import replacing
from dualselect.reports.page import environment, policy_hash, resource
from dualselect.reports.svg import drawing, inline_svg, series_colour
from dualselect.runs.scores import ScoreTable
from dualselect.statistics.ranks import spearman

_BINS = 40
LENGTH = "answer tokens"


class Sample(NamedTuple):
    """A sample as a reader sees it."""

    prompt: str
    answer: str


class Suspect(NamedTuple):
    """A sample with a low score: its id, its score, its ranks from below by every selector, and its text if known."""

    name: str
    score: float
    ranks: dict[str, int]
    sample: Sample | None


def write_scores_page(table: ScoreTable, samples: Mapping[int, Sample], top: int, path: Path) -> None:
    """Write the page.

    Args:
        table: The scores.
        samples: The samples to show, by their rows in the table.
        top: Samples to list of each selector.
        path: File to write.
    """
    style, script = resource("style.css"), resource("report.js")
    page = (
        environment()
        .get_template("scores.html.j2")
        .render(
            title=path.resolve().parent.name,
            table=table,
            histograms=[_histogram(name, values) for name, values in table.scores.items()],
            correlations=rank_correlations(table),
            suspects={name: suspects(table, name, samples, top) for name in table.scores},
            style=Markup(style),
            script=Markup(script),
            style_hash=policy_hash(style),
            script_hash=policy_hash(script),
            version=__version__,
        )
    )
    with replacing(path) as draft:
        draft.write_text(page, encoding="utf-8")


def rank_correlations(table: ScoreTable) -> dict[str, dict[str, float]]:
    """Return Spearman's rank correlation of every selector with all of them, with the loss and with the length.

    Only samples with both values count; a column of equal values has a correlation that is not a number.
    """
    columns = {**table.scores, "loss": table.columns["loss"], LENGTH: table.tokens.astype(float)}
    return {name: {other: spearman(table.scores[name], columns[other]) for other in columns} for name in table.scores}


def suspects(table: ScoreTable, selector: str, samples: Mapping[int, Sample], top: int) -> list[Suspect]:
    """Return the samples with the lowest scores by a selector, the lowest first."""
    ranks = {name: _ranks(values) for name, values in table.scores.items()}
    return [
        Suspect(
            table.ids[row],
            float(table.scores[selector][row]),
            {name: int(places[row]) for name, places in ranks.items()},
            samples.get(row),
        )
        for row in table.lowest(selector, top)
    ]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return each sample's place from below, from 1."""
    places = np.empty(len(values), dtype=np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1)
    return places


def _histogram(name: str, values: np.ndarray) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    with drawing(340, 190) as figure:
        axes = figure.add_subplot()
        axes.hist(finite, bins=min(_BINS, max(len(finite), 1)), color=series_colour(1))
        axes.locator_params(axis="x", nbins=4)
        axes.ticklabel_format(axis="x", scilimits=(-2, 4))
        axes.set_xlabel("score, higher to keep")
        axes.set_ylabel("samples")
        svg = inline_svg(figure, f"scores-{name}", f"Distribution of the scores by {name}")
    low, high = (f"{end:.4g}" for end in (finite.min(), finite.max())) if len(finite) else ("-", "-")
    note = f"{low} to {high}; {len(values) - len(finite)} without a score"
    return {"title": name, "note": note, "svg": svg}
