"""Suites: sets of prompts with the way their answers are scored, from the hub, this package or a file of the user's."""

from dualselect.evaluation.suites.base import LoadedSuite, Sample, Suite
from dualselect.evaluation.suites.catalog import SUITES, SuiteRow, expand, get_suite, read_suites, suite_rows
from dualselect.evaluation.suites.loading import load
from dualselect.evaluation.suites.run import run_suite

__all__ = [
    "SUITES",
    "LoadedSuite",
    "Sample",
    "Suite",
    "SuiteRow",
    "expand",
    "get_suite",
    "load",
    "read_suites",
    "run_suite",
    "suite_rows",
]
