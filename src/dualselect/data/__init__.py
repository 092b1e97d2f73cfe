"""Data: loading any source into prompts and completions, ids of samples, and keeping sets apart."""

from dualselect.data.disjoint import (
    POLICIES,
    REFERENCES,
    TASK,
    evaluation_role,
    is_evaluation,
    keep_apart,
    refused_overlaps,
    run_doubts,
    run_overlaps,
)
from dualselect.data.examples import arithmetic_task, safe_references
from dualselect.data.forms import FORMS, Form, refuse_undesired
from dualselect.data.identity import (
    INDEX_COLUMN,
    TOKEN_WEIGHTS,
    IndexCollator,
    content_digest,
    dropped_ids,
    identify,
)
from dualselect.data.loading import LoadedSamples, load_samples, load_with_form
from dualselect.data.overlaps import Overlap, check_disjoint, drop_overlaps, find_duplicates, prompt_key, sample_keys
from dualselect.data.streams import first_samples

__all__ = [
    "FORMS",
    "INDEX_COLUMN",
    "POLICIES",
    "REFERENCES",
    "TASK",
    "TOKEN_WEIGHTS",
    "Form",
    "IndexCollator",
    "LoadedSamples",
    "Overlap",
    "arithmetic_task",
    "check_disjoint",
    "content_digest",
    "drop_overlaps",
    "dropped_ids",
    "evaluation_role",
    "find_duplicates",
    "first_samples",
    "identify",
    "is_evaluation",
    "keep_apart",
    "load_samples",
    "load_with_form",
    "prompt_key",
    "refuse_undesired",
    "refused_overlaps",
    "run_doubts",
    "run_overlaps",
    "safe_references",
    "sample_keys",
]
