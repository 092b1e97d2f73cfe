"""The three panels of a diagnostic: overlap of choices, chosen categories by task group, and reductions of the KL."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from dualselect.reports.svg import Ink
from dualselect.runs.diagnostic import ACROSS, WITHIN
from dualselect.statistics.formats import number_text

Row = dict[str, Any]
#: An entry of a legend: name, number of the colour, and dash; -1 is a dot.
Key = tuple[str, int, int]

OVERLAP_KEYS: list[Key] = [
    ("two batches of one group", 1, -1),
    ("of different groups", 2, -1),
    ("random choices, expected", 0, 0),
]
_BAR = 0.36  # half the height of a strategy's tick
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Scale(NamedTuple):
    """A unit in which numbers can be read: `factor` of them are one nat; `digits` stand after the point."""

    factor: float
    unit: str
    digits: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> "Scale":
        """Return the unit in which the largest value has one to three digits before the point."""
        size = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
        if size == 0 or size >= 0.1:
            return cls(1.0, "nats per token", 3)
        power = 3 * math.ceil(-math.log10(size) / 3)
        digits = 2 - math.floor(math.log10(size * 10**power))
        return cls(10.0**power, f"{_power(-power)} nats per token", digits)

    def text(self, value: float | None, *, signed: bool = True) -> str:
        """Return a number in this unit; a dash where there is none."""
        if value is None or not math.isfinite(value):
            return "–"
        return number_text(value * self.factor, self.digits, signed=signed)

    def with_interval(self, value: float | None, low: float | None, high: float | None) -> str:
        """Return a number in this unit with its interval, where it has one."""
        if low is None or high is None or not math.isfinite(low + high):
            return self.text(value)
        return f"{self.text(value)} [{self.text(low)}, {self.text(high)}]"


def _power(exponent: int) -> str:
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def reduction_scale(reductions: Sequence[Row]) -> Scale:
    """Return the unit of all reductions of a diagnostic."""
    return Scale.of([row[name] for row in reductions for name in ("mean", "low", "high", "p90")])


def correction_keys(reductions: Sequence[Row]) -> list[Key]:
    """Return the legend of the reductions: a colour for every correction."""
    names = dict.fromkeys(row["correction"] for row in reductions)
    return [(name, 1 + place % 8, -1) for place, name in enumerate(names)]


def overlap_panel(overlap: Sequence[Row], axes: Any, ink: Ink) -> None:
    """Draw the mean Jaccard index of every strategy, within and across groups, beside that of random choices."""
    strategies = list(dict.fromkeys(row["strategy"] for row in overlap))
    for row in overlap:
        place = strategies.index(row["strategy"])
        if row["group"] or row["scope"] not in (WITHIN, ACROSS):
            continue
        if math.isfinite(row["expected"]):
            axes.vlines(row["expected"], place - _BAR, place + _BAR, color=ink.series[0], linewidth=1.6, zorder=1)
        shift, series = (-0.13, 1) if row["scope"] == WITHIN else (0.13, 2)
        _dot(axes, row["jaccard"], place + shift, ink.series[series], ink)
    _name_rows(axes, strategies)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel("mean Jaccard index of two choices")


def heatmap_panel(heatmap: Sequence[Row], strategy: str, axes: Any, ink: Ink) -> None:
    """Draw the share of every safety category in what a strategy chose for the batches of each group."""
    from matplotlib.colors import LinearSegmentedColormap

    groups, categories, shares = heatmap_grid(heatmap, strategy)
    most = max((share for row in shares for share in row), default=0.0) or 1.0
    colours = LinearSegmentedColormap.from_list("shares", [ink.surface, ink.series[1]])
    axes.pcolormesh(shares, cmap=colours, vmin=0, vmax=most, edgecolors=ink.line, linewidth=0.8)
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            colour = ink.surface if share > 0.8 * most else ink.text
            axes.text(x + 0.5, y + 0.5, f"{100 * share:.0f}", ha="center", va="center", color=colour)
    axes.set_yticks([place + 0.5 for place in range(len(groups))], groups)
    axes.set_xticks([place + 0.5 for place in range(len(categories))], categories, rotation=35, ha="right")
    axes.set_xlabel(f"chosen by {strategy}")
    axes.tick_params(length=0, labelcolor=ink.text)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()


def heatmap_grid(heatmap: Sequence[Row], strategy: str) -> tuple[list[str], list[str], list[list[float]]]:
    """Return groups, categories, and the shares of a strategy, a list a group."""
    shares = {(row["group"], row["category"]): row["share"] for row in heatmap if row["strategy"] == strategy}
    groups, categories = (list(dict.fromkeys(key[side] for key in shares)) for side in (0, 1))
    return groups, categories, [[shares.get((group, name), 0.0) for name in categories] for group in groups]


def reductions_panel(reductions: Sequence[Row], axes: Any, ink: Ink) -> None:
    """Draw the mean reduction of the KL on the probe by every strategy, with its interval."""
    scale = reduction_scale(reductions)
    strategies = list(dict.fromkeys(row["strategy"] for row in reductions))
    keys = correction_keys(reductions)
    series = {name: number for name, number, _ in keys}
    step = min(0.24, 0.8 / len(keys)) if keys else 0.0
    axes.axvline(0, color=ink.muted, linewidth=0.9)
    for row in reductions:
        order = list(series).index(row["correction"])
        place = strategies.index(row["strategy"]) + (order - (len(keys) - 1) / 2) * step
        colour = ink.series[series[row["correction"]]]
        if math.isfinite(row["low"]):
            axes.hlines(place, row["low"] * scale.factor, row["high"] * scale.factor, color=colour, linewidth=1.8)
        _dot(axes, row["mean"] * scale.factor, place, colour, ink)
    _name_rows(axes, strategies)
    axes.xaxis.get_major_locator().set_params(nbins=5)
    axes.set_xlabel(f"KL reduction, {scale.unit}")


def _dot(axes: Any, value: float, place: float, colour: str, ink: Ink) -> None:
    axes.plot(value, place, "o", color=colour, markersize=8, markeredgecolor=ink.surface, markeredgewidth=1, zorder=3)


def _name_rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first one at the top
    axes.grid(axis="y", visible=False)
