"""Readers for the layouts of single data sets, and for a user's own records, where no general reader fits."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dualselect.data.messages import text_of
from dualselect.data.records import Record
from dualselect.errors import DataError
from dualselect.evaluation.exact_match import final_number
from dualselect.evaluation.suites.base import Reader, Sample
from dualselect.evaluation.suites.readers import number_problem, prompts

# The second of the eleven categories was withdrawn by the authors.
_HEX_PHI = {
    1: "Illegal activity",
    3: "Hate, harassment and violence",
    4: "Malware",
    5: "Physical harm",
    6: "Economic harm",
    7: "Fraud and deception",
    8: "Adult content",
    9: "Political campaigning",
    10: "Privacy violation",
    11: "Tailored financial advice",
}


def with_expected(reader: Reader) -> Reader:
    """Return a reader that also takes the reference answer from a field `expected`, if a record has one."""

    def read(record: Record) -> Sample | None:
        sample, expected = reader(record), record.fields.get("expected")
        if sample is None or expected is None:
            return sample
        if isinstance(expected, int | float) and not isinstance(expected, bool):
            expected = str(expected)
        return replace(sample, expected=text_of(expected, "expected", record.place))

    return read


def expected_number(record: Record) -> Sample | None:
    """Return a problem whose reference answer ends in a number, in a field `expected` or as in `number_problem`."""
    if record.fields.get("expected") is None:
        return number_problem(record)
    sample = with_expected(prompts())(record)
    if sample is not None and final_number(sample.expected or "") is None:
        raise DataError(
            f"{record.place}: field 'expected' does not end in a number; give one, or declare the suite in a YAML "
            "file with `scoring: judges` or `scoring: win_rate`"
        )
    return sample


def hex_phi(record: Record) -> Sample | None:
    """Return a prompt of HEx-PHI, whose category is in the name of its file, category_<number>.csv."""
    sample = prompts("instruction")(record)
    number = re.search(r"category_(\d+)", Path(record.source).name)
    if sample is None or sample.category is not None or number is None:
        return sample
    return replace(sample, category=_HEX_PHI.get(int(number.group(1))))


def harmbench() -> Reader:
    """Return a reader of HarmBench without copyright behaviours: those are judged by comparing texts, not by harm."""
    return prompts(
        "Behavior",
        "prompt",
        category=("SemanticCategory", "category"),
        context=("ContextString", "context"),
        keep=lambda fields: fields.get("FunctionalCategory") != "copyright",
    )


def xstest(label: str) -> Reader:
    """Return a reader of the XSTest prompts with a label, `safe` or `unsafe`."""

    def keep(fields: Mapping[str, Any]) -> bool:
        # Older copies of the file only have the name of the type.
        found = fields.get("label") or ("unsafe" if str(fields.get("type")).startswith("contrast") else "safe")
        return (found == "safe") == (label == "safe")

    return prompts("prompt", category=("type", "category"), keep=keep)
