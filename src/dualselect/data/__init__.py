"""Data: loading any source into prompts and completions with stable ids, and keeping sets apart."""

from dualselect.data.disjoint import (
    POLICIES,
    REFERENCES,
    TASK,
    evaluation_role,
    keep_apart,
    refused_overlaps,
    run_overlaps,
)
from dualselect.data.forms import FORMS, Form
from dualselect.data.loading import LoadedSamples, load_samples, load_with_form
from dualselect.data.overlaps import Overlap, check_disjoint, drop_overlaps, find_duplicates, prompt_key
from dualselect.data.trained import sample_categories, trained_prompts, write_samples

__all__ = [
    "FORMS",
    "POLICIES",
    "REFERENCES",
    "TASK",
    "Form",
    "LoadedSamples",
    "Overlap",
    "check_disjoint",
    "drop_overlaps",
    "evaluation_role",
    "find_duplicates",
    "keep_apart",
    "load_samples",
    "load_with_form",
    "prompt_key",
    "refused_overlaps",
    "run_overlaps",
    "sample_categories",
    "trained_prompts",
    "write_samples",
]
