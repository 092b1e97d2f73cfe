"""Data: loading any source into prompts and completions with stable ids, and keeping sets apart."""

from dualselect.data.forms import FORMS, Form
from dualselect.data.loading import LoadedSamples, load_samples, load_with_form
from dualselect.data.overlaps import Overlap, check_disjoint, drop_overlaps, find_duplicates, prompt_key

__all__ = [
    "FORMS",
    "Form",
    "LoadedSamples",
    "Overlap",
    "check_disjoint",
    "drop_overlaps",
    "find_duplicates",
    "load_samples",
    "load_with_form",
    "prompt_key",
]
