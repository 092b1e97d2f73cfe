"""Choosing the strength of every method on the validation prompts alone."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from statistics import fmean

import pyarrow as pa
import pyarrow.compute as pc

from dualselect.errors import ConfigError, DataError, nearest
from dualselect.experiments.trial import point_name
from dualselect.experiments.tuning import SAFETY, UTILITY, Tuning
from dualselect.runs.frontier import Axis
from dualselect.runs.labels import lead_rank
from dualselect.runs.values import ANSWERS, TEST, VALIDATION, Measured, measured

_SEED = "dualselect validation 0"
_ROUNDING = 1e-12  # of means that differ by exactly the margin


@dataclass(frozen=True)
class Outcome:
    """A strength on the validation prompts.

    Attributes:
        safety: Mean safety.
        utility: Mean utility.
        keeps_utility: Whether utility is no worse than plain SFT's by more than the margin.
        is_chosen: Whether it is chosen among the strengths of its method.
    """

    safety: float
    utility: float
    keeps_utility: bool
    is_chosen: bool = False


def split(values: pa.Table, validation: float) -> pa.Table:
    """Return the values with their column `split`: which prompts of each suite strengths are chosen by.

    The split depends on the ids of the prompts alone. With a share, it stays as it is when others are added.

    Args:
        values: Values of all cells.
        validation: Prompts of each suite to choose by: a share below 1, or a count.

    Raises:
        DataError: All prompts of a suite would be on one side.
    """
    ids: dict[str, dict[str, None]] = {}
    suites, samples = values["suite"].to_pylist(), values["id"].to_pylist()
    for suite, sample in zip(suites, samples, strict=True):
        ids.setdefault(suite, {})[sample] = None
    chosen = drawn(ids, validation)
    column = [VALIDATION if one in chosen[suite] else TEST for suite, one in zip(suites, samples, strict=True)]
    return values.set_column(values.schema.get_field_index("split"), "split", pa.array(column, pa.string()))


def drawn(ids: Mapping[str, Collection[str]], validation: float) -> dict[str, frozenset[str]]:
    """Return the prompts of each suite that strengths are chosen by.

    Args:
        ids: Ids of the prompts that are measured, each once, by suite.
        validation: Prompts of each suite to choose by: a share below 1, or a count.

    Raises:
        DataError: All prompts of a suite would be on one side.
    """
    chosen = {suite: _drawn(own, validation) for suite, own in ids.items()}
    for suite, own in ids.items():
        if len(chosen[suite]) in (0, len(own)):
            side = "choose by" if not chosen[suite] else "test on"
            count = f", or give validation as a count of 1 to {len(own) - 1}" if len(own) > 1 else ""
            raise DataError(
                f"validation: {validation:g} of the {len(own)} prompts of '{suite}' leaves none to {side}; "
                f"measure more prompts{count}"
            )
    return chosen


def by_point(values: pa.Table, side: str, *axes: Axis) -> list[Measured]:
    """Return the values of some axes on one side of the split, every method at every strength as one of its own."""
    shown = values.filter(pc.equal(values["split"], side))
    pairs = zip(shown["method"].to_pylist(), shown["strength"].to_pylist(), strict=True)
    names = pa.array([point_name(*pair) for pair in pairs], pa.string())
    found = measured(shown.set_column(shown.schema.get_field_index("method"), "method", names))
    return [one for axis in axes for one in found if (one.suite, one.name) == (axis.suite, axis.name)]


def find_axes(values: pa.Table, tuning: Tuning) -> tuple[Axis, Axis]:
    """Return what safety and utility are.

    Raises:
        ConfigError: Such a metric was not measured, or neither direction of it is better.
    """
    found = measured(values)
    return _axis("safety", tuning.safety, SAFETY, found), _axis("utility", tuning.utility, UTILITY, found)


def choose(
    values: pa.Table, points: Mapping[str, Iterable[str]], axes: tuple[Axis, Axis], tuning: Tuning
) -> dict[str, Outcome]:
    """Return what came of every point, and which of each method is chosen; no test prompt is read.

    The one with the best safety is chosen among those that keep utility; where none does, the one with the best
    utility. Only strengths count that are done under as many seeds, in common with plain SFT, as any other. Nothing is
    chosen before plain SFT is done.

    Args:
        values: Values with their split.
        points: Names of the points of every method.
        axes: Axes of safety and utility.
        tuning: Way in which strengths are chosen.
    """
    found = by_point(values, VALIDATION, *axes)
    if len(found) < len(axes):
        return {}
    outcomes: dict[str, Outcome] = {}
    for names in points.values():
        seeds = {name: _common_seeds(found[0], name, tuning.sft) for name in names}
        most = max(map(len, seeds.values()))
        own = {name: _outcome(name, seeds[name], found, axes, tuning) for name in names if len(seeds[name]) == most > 0}
        known = {name: outcome for name, outcome in own.items() if outcome is not None}
        if known:
            best = max(known, key=lambda name: _merit(known[name], axes))
            outcomes |= known | {best: replace(known[best], is_chosen=True)}
    return outcomes


def _common_seeds(one: Measured, name: str, other: str) -> list[int | None]:
    theirs = one.by_method.get(other, {})
    return [seed for seed in one.by_method.get(name, {}) if seed in theirs]


def _outcome(
    name: str, seeds: Sequence[int | None], found: Sequence[Measured], axes: tuple[Axis, Axis], tuning: Tuning
) -> Outcome | None:
    """Return what came of a point; None where it or plain SFT has no value."""
    safety, utility = (_mean(one, name, seeds) for one in found)
    least = _mean(found[1], tuning.sft, seeds)
    if safety is None or utility is None or least is None:
        return None
    lost = axes[1].sign * (least - utility)
    return Outcome(safety, utility, keeps_utility=lost <= tuning.margin + _ROUNDING)


def _mean(one: Measured, name: str, seeds: Sequence[int | None]) -> float | None:
    values = [value for seed in seeds for value in one.by_method[name].get(seed, {}).values() if value is not None]
    return fmean(values) if values else None


def _merit(outcome: Outcome, axes: tuple[Axis, Axis]) -> tuple[bool, float, float]:
    safety, utility = axes[0].sign * outcome.safety, axes[1].sign * outcome.utility
    return (True, safety, utility) if outcome.keeps_utility else (False, utility, safety)


def _drawn(ids: Iterable[str], validation: float) -> frozenset[str]:
    places = {one: int.from_bytes(sha256(f"{_SEED} {one}".encode()).digest()[:8], "big") / 2**64 for one in ids}
    if validation < 1:
        return frozenset(one for one, place in places.items() if place < validation)
    return frozenset(sorted(places, key=lambda one: places[one])[: int(validation)])


def _axis(what: str, asked: str, defaults: tuple[str, str], found: Sequence[Measured]) -> Axis:
    """Return the metric that a setting asks for, or the leading one of the first suite that measures such a thing."""
    kind, probe = defaults
    suite, _, name = asked.partition(":")
    there = [one for one in found if one.kind != ANSWERS and one.metric.better != "neither"]
    own = [one for one in there if suite in ("", one.suite) and name in ("", one.name)]
    if not asked:
        own = [one for one in there if one.kind == kind] or [one for one in there if one.name == probe]
    if not own:
        names = [f"{one.suite}:{one.name}" for one in there]
        raise ConfigError(
            f"tune: {what}: '{asked or kind}' was not measured, or has no better side{nearest(asked, names)}"
        )
    first = min((one for one in own if one.suite == own[0].suite), key=lambda one: lead_rank(one.name))
    return Axis(first.suite, first.name, first.metric)
