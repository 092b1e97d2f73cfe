"""dualselect: fine-tune an aligned language model without losing its safe behaviour.

What most programs need is here; the rest is one folder below, such as `dualselect.gradients`.
"""

from typing import TYPE_CHECKING

from dualselect.lazy import lazy_names

if TYPE_CHECKING:
    from dualselect.data import arithmetic_task, load_samples, safe_references
    from dualselect.evaluation.evaluate import Models, evaluate
    from dualselect.evaluation.judges import Judge, Verdict, judge
    from dualselect.evaluation.run import EvaluationSettings
    from dualselect.experiments import run_grid
    from dualselect.gradients import Dense, Direction, Outer, Rows, capture, register_rule
    from dualselect.methods import CORRECTIONS, SFT, DualSelect, Method, Run, Scores, Selection, method
    from dualselect.options import option
    from dualselect.reports import write_model_card, write_report
    from dualselect.runs.selection_log import SelectionLog
    from dualselect.selection import TRIGGERS, RefreshTrigger
    from dualselect.training import DualSelectConfig, DualSelectTrainer, record_conflicts

__version__ = "0.1.0"

__all__ = [
    "CORRECTIONS",
    "SFT",
    "TRIGGERS",
    "Dense",
    "Direction",
    "DualSelect",
    "DualSelectConfig",
    "DualSelectTrainer",
    "EvaluationSettings",
    "Judge",
    "Method",
    "Models",
    "Outer",
    "RefreshTrigger",
    "Rows",
    "Run",
    "Scores",
    "Selection",
    "SelectionLog",
    "Verdict",
    "__version__",
    "arithmetic_task",
    "capture",
    "evaluate",
    "judge",
    "load_samples",
    "method",
    "option",
    "record_conflicts",
    "register_rule",
    "run_grid",
    "safe_references",
    "write_model_card",
    "write_report",
]

# Imported when first used: torch takes seconds to import, and `dualselect --help` should not wait for it.
__getattr__ = lazy_names(
    __name__,
    {
        "CORRECTIONS": "dualselect.methods",
        "Dense": "dualselect.gradients",
        "Direction": "dualselect.gradients",
        "DualSelect": "dualselect.methods",
        "DualSelectConfig": "dualselect.training",
        "DualSelectTrainer": "dualselect.training",
        "EvaluationSettings": "dualselect.evaluation.run",
        "Judge": "dualselect.evaluation.judges",
        "Method": "dualselect.methods",
        "Models": "dualselect.evaluation.evaluate",
        "Outer": "dualselect.gradients",
        "RefreshTrigger": "dualselect.selection",
        "Rows": "dualselect.gradients",
        "Run": "dualselect.methods",
        "SFT": "dualselect.methods",
        "Scores": "dualselect.methods",
        "Selection": "dualselect.methods",
        "SelectionLog": "dualselect.runs.selection_log",
        "TRIGGERS": "dualselect.selection",
        "Verdict": "dualselect.evaluation.judges",
        "arithmetic_task": "dualselect.data",
        "capture": "dualselect.gradients",
        "evaluate": "dualselect.evaluation.evaluate",
        "judge": "dualselect.evaluation.judges",
        "load_samples": "dualselect.data",
        "method": "dualselect.methods",
        "option": "dualselect.options",
        "record_conflicts": "dualselect.training",
        "register_rule": "dualselect.gradients",
        "run_grid": "dualselect.experiments",
        "safe_references": "dualselect.data",
        "write_model_card": "dualselect.reports",
        "write_report": "dualselect.reports",
    },
)
