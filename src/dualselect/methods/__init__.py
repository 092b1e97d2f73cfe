"""Ways of fine-tuning, all plugins of one contract."""

from dualselect.methods.antidote import Antidote
from dualselect.methods.base import Method, Run, Scores, Selection
from dualselect.methods.booster import Booster
from dualselect.methods.corrections import CORRECTIONS, corrected
from dualselect.methods.dualselect import PRESETS, DualSelect
from dualselect.methods.lisa import Lisa
from dualselect.methods.random import Random
from dualselect.methods.registry import available, default_of, get
from dualselect.methods.safegrad import SafeGrad
from dualselect.methods.sft import SFT
from dualselect.methods.toss import TOSS

__all__ = [
    "CORRECTIONS",
    "PRESETS",
    "SFT",
    "TOSS",
    "Antidote",
    "Booster",
    "DualSelect",
    "Lisa",
    "Method",
    "Random",
    "Run",
    "SafeGrad",
    "Scores",
    "Selection",
    "available",
    "corrected",
    "default_of",
    "get",
]
