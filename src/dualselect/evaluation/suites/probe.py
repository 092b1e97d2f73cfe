"""Suites of known answers whose likelihood is measured; nothing is generated."""

from dualselect.evaluation.suites.base import OWN_CITATION, OWN_LICENCE, Suite
from dualselect.evaluation.suites.readers import answered

SAFE_MEASURES = ("safe_nll", "safe_kl", "refusal_log_odds")

SAFE_ANSWERS = Suite(
    name="safe-answers",
    kind="probe",
    title="held-out safe answers",
    scoring="probe",
    reader=answered,
    advice="unsafe requests with safe answers, as prompt and completion",
    measures=SAFE_MEASURES,
)
BUILTIN_SAFE_ANSWERS = Suite(
    name="builtin-safe-answers",
    kind="probe",
    title="safe answers (built in)",
    scoring="probe",
    reader=answered,
    embedded="unsafe.jsonl",
    measures=SAFE_MEASURES,
    licence=OWN_LICENCE,
    citation=OWN_CITATION,
)
TASK_ANSWERS = Suite(
    name="task-answers",
    kind="probe",
    title="held-out task answers",
    scoring="probe",
    reader=answered,
    advice="held-out samples of your task, as prompt and completion",
    measures=("task_nll",),
)

PROBE_SUITES = (BUILTIN_SAFE_ANSWERS, SAFE_ANSWERS, TASK_ANSWERS)
