"""Ways of fine-tuning, all plugins of one contract."""

from dualselect.methods.base import Method, Run, Scores, Selection
from dualselect.methods.corrections import CORRECTIONS, corrected
from dualselect.methods.dualselect import PRESETS, DualSelect
from dualselect.methods.random import Random
from dualselect.methods.registry import available, get
from dualselect.methods.safegrad import SafeGrad
from dualselect.methods.sft import SFT

__all__ = [
    "CORRECTIONS",
    "PRESETS",
    "SFT",
    "DualSelect",
    "Method",
    "Random",
    "Run",
    "SafeGrad",
    "Scores",
    "Selection",
    "available",
    "corrected",
    "get",
]
