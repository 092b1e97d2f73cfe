"""Suites: sets of prompts with the way their answers are scored, from the hub, this package or a file of the user's."""

from dualselect.evaluation.suites.base import LoadedSuite, Sample, Suite
from dualselect.evaluation.suites.loading import load
from dualselect.evaluation.suites.registry import SUITES, SuiteRow, get_suite, suite_rows
from dualselect.evaluation.suites.run import run_suite

__all__ = [
    "SUITES",
    "LoadedSuite",
    "Sample",
    "Suite",
    "SuiteRow",
    "get_suite",
    "load",
    "run_suite",
    "suite_rows",
]
