"""All suites by name."""

from typing import NamedTuple

from dualselect.errors import ConfigError, nearest
from dualselect.evaluation.suites.base import Suite, by_name
from dualselect.evaluation.suites.probe import PROBE_SUITES
from dualselect.evaluation.suites.safety import OVERREFUSAL_SUITES, SAFETY_SUITES
from dualselect.evaluation.suites.utility import UTILITY_SUITES

SUITES = by_name(*SAFETY_SUITES, *OVERREFUSAL_SUITES, *UTILITY_SUITES, *PROBE_SUITES)


class SuiteRow(NamedTuple):
    """A line of the list of suites."""

    name: str
    kind: str
    title: str
    licence: str
    source: str


def get_suite(name: str) -> Suite:
    """Return the suite of that name.

    Raises:
        ConfigError: There is none; the nearest names are offered.
    """
    if name not in SUITES:
        raise ConfigError(f"unknown suite '{name}'{nearest(name, SUITES)}")
    return SUITES[name]


def suite_rows() -> list[SuiteRow]:
    """Return a row for every suite, for a table: name, kind, title, licence and where its data come from."""
    return [SuiteRow(suite.name, suite.kind, suite.title, suite.licence, _where(suite)) for suite in SUITES.values()]


def _where(suite: Suite) -> str:
    if suite.embedded is not None:
        return "built in"
    return suite.source or f"--data {suite.name}=PATH: {suite.advice}"
