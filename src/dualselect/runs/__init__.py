"""The files of a run, a comparison and a scan: every file has one owner, which writes and reads it."""

from dualselect.runs.results import Metric, Record, SuiteResult, Verdict, read_results
from dualselect.runs.samples import sample_categories, sample_planted, trained_doubt, trained_prompts, write_samples

__all__ = [
    "Metric",
    "Record",
    "SuiteResult",
    "Verdict",
    "read_results",
    "sample_categories",
    "sample_planted",
    "trained_doubt",
    "trained_prompts",
    "write_samples",
]
