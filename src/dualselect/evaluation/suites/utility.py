"""Suites that show whether a model can do its task, and general ones beside it."""

from dualselect.evaluation.suites.base import Suite
from dualselect.evaluation.suites.readers import conversations, labelled, multiple_choice, number_problem

_NEWS = ("World", "Sports", "Business", "Sci/Tech")

GSM8K = Suite(
    name="gsm8k",
    kind="utility",
    title="GSM8K",
    scoring="exact_match",
    reader=number_problem,
    source="openai/gsm8k:main",
    licence="MIT",
    citation="Cobbe et al. 2021, arXiv 2110.14168",
    max_new_tokens=512,
)
MMLU = Suite(
    name="mmlu",
    kind="utility",
    title="MMLU",
    scoring="multiple_choice",
    reader=multiple_choice,
    source="cais/mmlu:all",
    licence="MIT",
    citation="Hendrycks et al. 2021, arXiv 2009.03300",
)
MULTIPLE_CHOICE = Suite(
    name="multiple-choice",
    kind="utility",
    title="multiple choice",
    scoring="multiple_choice",
    reader=multiple_choice,
    advice="records with question, choices and answer",
)
CLASSIFICATION = Suite(
    name="classification",
    kind="utility",
    title="classification",
    scoring="classification",
    reader=labelled(),
    advice="records with text and label",
)
AG_NEWS = Suite(
    name="ag-news",
    kind="utility",
    title="AG News",
    scoring="classification",
    reader=labelled(_NEWS),
    source="fancyzhx/ag_news",
    labels=_NEWS,
    licence="non-commercial use (AG's corpus)",
    citation="Zhang et al. 2015, arXiv 1509.01626",
)
SLIMORCA = Suite(
    name="slimorca",
    kind="utility",
    title="SlimOrca",
    scoring="win_rate",
    reader=conversations,
    source="Open-Orca/SlimOrca",
    split="train",
    licence="MIT",
    citation="Lian et al. 2023, Open-Orca/SlimOrca on the hub",
    max_new_tokens=512,
)

UTILITY_SUITES = (GSM8K, MMLU, MULTIPLE_CHOICE, CLASSIFICATION, AG_NEWS, SLIMORCA)
