"""How strengths are chosen: the settings `validation` and `tune` of a grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dualselect.errors import ConfigError, nearest
from dualselect.evaluation.suites import get_suite
from dualselect.experiments.request import MethodChoice
from dualselect.experiments.strengths import Strengths
from dualselect.methods import SFT
from dualselect.options import documented, option
from dualselect.settings.config_file import Entry
from dualselect.settings.parser import CommandParser

#: What measures safety and utility where nothing is asked for: a kind of suites, or else a measure of a probe.
SAFETY, UTILITY = ("safety", "safe_nll"), ("utility", "task_nll")


@documented
@dataclass(frozen=True)
class Tuning:
    """How the strength of every method is chosen, and what the frontier is drawn of.

    Raises:
        ConfigError: A number out of range.
    """

    sft: str = option("sft", "Label of plain SFT, whose utility and step are the measures.")
    validation: float = option(0.3, "Prompts of each suite to choose by: a share below 1, or a count.")
    safety: str = option("", "SUITE or SUITE:METRIC. Empty: the leading metric of the first safety suite.")
    utility: str = option("", "SUITE or SUITE:METRIC. Empty: the leading metric of the first utility suite.")
    margin: float = option(0.02, "Utility that a strength may lose against plain SFT, in the metric's units.")
    reference: list[float] | None = option(
        None, "Safety and utility of the point from which hypervolume is measured. Unset: the worst of all cells."
    )

    def __post_init__(self) -> None:
        if self.validation <= 0 or (self.validation >= 1 and self.validation != int(self.validation)):
            raise ConfigError(f"validation is {self.validation}; give a share such as 0.3, or a count such as 50")
        if self.margin < 0:
            raise ConfigError(f"margin is {self.margin}; give 0 or more")
        if self.reference is not None and len(self.reference) != 2:
            raise ConfigError(f"reference has {len(self.reference)} numbers; give two, of safety and of utility")


def read_tuning(
    entries: Mapping[str, Entry | None],
    strengths: Strengths,
    choices: Mapping[str, MethodChoice],
    baseline: str,
    suites: Sequence[str],
) -> Tuning | None:
    """Return how strengths are chosen; None where nothing is varied.

    Args:
        entries: Entries `validation` and `tune` of the file.
        strengths: Options that are varied.
        choices: Methods by label.
        baseline: Label that the others are compared with.
        suites: Suites that are measured.

    Raises:
        ConfigError: A setting is unknown or impossible, nothing is varied that it is about, or there is no plain SFT.
    """
    given = {name: entry for name, entry in entries.items() if entry is not None}
    if not strengths.options:
        for name, entry in given.items():
            raise ConfigError(f"{entry.place}: '{name}' chooses between strengths; add strength, or leave it out")
        return None
    plain = [label for label, choice in choices.items() if choice.name == SFT.name]
    if not plain:
        raise ConfigError(f"{strengths.place}: strength needs plain SFT to compare utility with; add sft to methods")
    values: dict[str, Any] = {"sft": baseline if baseline in plain else plain[0]}
    parser = CommandParser("compare")
    parser.add_settings(Tuning, "tune", but=("sft",))
    if "validation" in given:
        values |= parser.parse_value("validation", given["validation"])
    if "tune" in given:
        values |= _tune(parser, *given["tune"])
    place = given["tune"].place if "tune" in given else strengths.place
    try:
        tuning = Tuning(**values)
    except ConfigError as error:
        wrong = str(error).split()[0]
        raise ConfigError(f"{given[wrong].place if wrong in given else place}: {error}") from error
    _check_suites(tuning, suites, place)
    return tuning


def _tune(parser: CommandParser, value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: tune is not a mapping; write {{safety: SUITE, utility: SUITE, margin: 0.02}}")
    known = [option.name for option in fields(Tuning) if option.name not in ("sft", "validation")]
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key not in known:
            raise ConfigError(f"{place}: unknown setting '{key}' in tune{nearest(str(key), known)}")
        found |= parser.parse_value(str(key), Entry(item, place))
    return found


def _check_suites(tuning: Tuning, suites: Sequence[str], place: str) -> None:
    """Refuse a grid without a suite to choose by, before anything is trained."""
    measured = {suite.name: {suite.kind, *suite.measures} for suite in map(get_suite, suites)}
    for what, asked, defaults in (("safety", tuning.safety, SAFETY), ("utility", tuning.utility, UTILITY)):
        name = asked.split(":", 1)[0]
        if name and name not in measured:
            raise ConfigError(f"{place}: {what}: '{name}' is not a suite of evaluate{nearest(name, measured)}")
        if not name and not any(measures.intersection(defaults) for measures in measured.values()):
            raise ConfigError(f"{place}: no suite of evaluate measures {what}; add one to suites")
