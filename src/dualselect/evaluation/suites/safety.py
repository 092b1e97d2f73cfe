"""Suites of unsafe requests, and of benign ones that only look unsafe."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dualselect.data.records import Record
from dualselect.evaluation.suites.base import OWN_CITATION, OWN_LICENCE, Sample, Suite
from dualselect.evaluation.suites.readers import first_turns, prompts

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


def _hex_phi(record: Record) -> Sample | None:
    """Return a prompt whose category is in the name of its file, category_<number>.csv."""
    sample = prompts("instruction")(record)
    number = re.search(r"category_(\d+)", Path(record.source).name)
    if sample is None or sample.category is not None or number is None:
        return sample
    return replace(sample, category=_HEX_PHI.get(int(number.group(1))))


def _has_standard_judge(fields: Mapping[str, Any]) -> bool:
    """Whether a HarmBench behaviour is no copyright one: those are judged by comparing texts, not by their harm."""
    return fields.get("FunctionalCategory") != "copyright"


def _is_safe(fields: Mapping[str, Any]) -> bool:
    """Whether an XSTest prompt is a safe one; older copies of the file tell by the name of the type."""
    label = fields.get("label") or ("unsafe" if str(fields.get("type")).startswith("contrast") else "safe")
    return bool(label == "safe")


HEX_PHI = Suite(
    name="hex-phi",
    kind="safety",
    title="HEx-PHI",
    scoring="judges",
    reader=_hex_phi,
    split="train",
    advice="ask for access to LLM-Tuning-Safety/HEx-PHI on the hub and put its category_*.csv into a folder",
    has_header=False,
    licence="HEx-PHI dataset licence (gated; no redistribution)",
    citation="Qi et al. 2023, arXiv 2310.03693",
)
HH_HARMLESS = Suite(
    name="hh-harmless",
    kind="safety",
    title="HH-RLHF harmless-base",
    scoring="judges",
    reader=prompts(),
    source="Anthropic/hh-rlhf/harmless-base",
    licence="MIT",
    citation="Bai et al. 2022, arXiv 2204.05862",
)
HH_REDTEAM = Suite(
    name="hh-redteam",
    kind="safety",
    title="HH-RLHF red-team attempts, first turns",
    scoring="judges",
    reader=first_turns("transcript"),
    source="Anthropic/hh-rlhf/red-team-attempts",
    split="train",
    licence="MIT",
    citation="Ganguli et al. 2022, arXiv 2209.07858",
)
ADVBENCH = Suite(
    name="advbench",
    kind="safety",
    title="AdvBench harmful behaviours",
    scoring="judges",
    reader=prompts("goal", "prompt"),
    source="walledai/AdvBench",
    split="train",
    licence="MIT",
    citation="Zou et al. 2023, arXiv 2307.15043",
)
HARMBENCH = Suite(
    name="harmbench",
    kind="safety",
    title="HarmBench behaviours without copyright",
    scoring="judges",
    reader=prompts(
        "Behavior",
        "prompt",
        category=("SemanticCategory", "category"),
        context=("ContextString", "context"),
        keep=_has_standard_judge,
    ),
    source="walledai/HarmBench:standard",
    split="train",
    id_field="BehaviorID",
    licence="MIT",
    citation="Mazeika et al. 2024, arXiv 2402.04249",
)
STRONGREJECT = Suite(
    name="strongreject",
    kind="safety",
    title="StrongREJECT",
    scoring="judges",
    reader=prompts("forbidden_prompt", "prompt"),
    source="walledai/StrongREJECT",
    split="train",
    licence="MIT",
    citation="Souly et al. 2024, arXiv 2402.10260",
)
DO_NOT_ANSWER = Suite(
    name="do-not-answer",
    kind="safety",
    title="Do-Not-Answer",
    scoring="judges",
    reader=prompts("question", category=("risk_area", "category")),
    source="LibrAI/do-not-answer",
    split="train",
    licence="CC BY-NC-SA 4.0",
    citation="Wang et al. 2023, arXiv 2308.13387",
)
XSTEST_UNSAFE = Suite(
    name="xstest-unsafe",
    kind="safety",
    title="XSTest, unsafe contrasts",
    scoring="judges",
    reader=prompts("prompt", category=("type", "category"), keep=lambda fields: not _is_safe(fields)),
    source="Paul/XSTest",
    split="train",
    licence="CC BY 4.0",
    citation="Röttger et al. 2023, arXiv 2308.01263",
)
XSTEST = Suite(
    name="xstest",
    kind="overrefusal",
    title="XSTest, safe prompts",
    scoring="judges",
    reader=prompts("prompt", category=("type", "category"), keep=_is_safe),
    source="Paul/XSTest",
    split="train",
    licence="CC BY 4.0",
    citation="Röttger et al. 2023, arXiv 2308.01263",
)
OR_BENCH = Suite(
    name="or-bench",
    kind="overrefusal",
    title="OR-Bench Hard-1K",
    scoring="judges",
    reader=prompts("prompt"),
    source="bench-llm/or-bench:or-bench-hard-1k",
    split="train",
    licence="CC BY 4.0",
    citation="Cui et al. 2024, arXiv 2405.20947",
)
BUILTIN_SAFETY = Suite(
    name="builtin-safety",
    kind="safety",
    title="unsafe requests (built in)",
    scoring="judges",
    reader=prompts(),
    embedded="unsafe.jsonl",
    max_new_tokens=96,
    licence=OWN_LICENCE,
    citation=OWN_CITATION,
)
BUILTIN_OVERREFUSAL = Suite(
    name="builtin-overrefusal",
    kind="overrefusal",
    title="benign look-alikes (built in)",
    scoring="judges",
    reader=prompts(),
    embedded="look_alikes.jsonl",
    max_new_tokens=96,
    licence=OWN_LICENCE,
    citation=OWN_CITATION,
)

SAFETY_SUITES = (
    BUILTIN_SAFETY,
    HEX_PHI,
    HH_HARMLESS,
    HH_REDTEAM,
    ADVBENCH,
    HARMBENCH,
    STRONGREJECT,
    DO_NOT_ANSWER,
    XSTEST_UNSAFE,
)
OVERREFUSAL_SUITES = (BUILTIN_OVERREFUSAL, XSTEST, OR_BENCH)
