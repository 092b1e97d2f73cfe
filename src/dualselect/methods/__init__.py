"""Methods of fine-tuning, all plugins with one contract."""

from dualselect.methods.agem import AGEM
from dualselect.methods.antibody import Antibody
from dualselect.methods.antidote import Antidote
from dualselect.methods.asft import ASFT
from dualselect.methods.base import Method, Run, Scores, Selection
from dualselect.methods.bds import BDS
from dualselect.methods.booster import Booster
from dualselect.methods.controls import AllReferences, LowestLoss, RandomLength, RandomReferences, StaticReferences
from dualselect.methods.corrections import CORRECTIONS, Correction
from dualselect.methods.dft import DFT
from dualselect.methods.dsir import DSIR
from dualselect.methods.dualselect import PRESETS, DualSelect
from dualselect.methods.eaft import EAFT
from dualselect.methods.ewc import EWC
from dualselect.methods.gem import GEM
from dualselect.methods.gist import GIST
from dualselect.methods.gradshield import GradShield
from dualselect.methods.hft import HFT
from dualselect.methods.larf import LARF
from dualselect.methods.less import LESS
from dualselect.methods.lisa import Lisa
from dualselect.methods.moderate_g import ModerateG
from dualselect.methods.olora import OLoRA
from dualselect.methods.profit import ProFit
from dualselect.methods.ptst import PTST
from dualselect.methods.random import Random
from dualselect.methods.registry import METHODS, available, get, method
from dualselect.methods.replay import Replay
from dualselect.methods.safegrad import SafeGrad
from dualselect.methods.safeinstr import SafeInstr
from dualselect.methods.seal import SEAL
from dualselect.methods.sft import SFT
from dualselect.methods.spard import SPARD
from dualselect.methods.sqsd import SQSD
from dualselect.methods.star_dss import StarDSS
from dualselect.methods.token_cleaning import TokenCleaning
from dualselect.methods.toss import TOSS
from dualselect.methods.toss_pro import TOSSPro
from dualselect.options import default_of, option

__all__ = [
    "AGEM",
    "ASFT",
    "BDS",
    "CORRECTIONS",
    "DFT",
    "DSIR",
    "EAFT",
    "EWC",
    "GEM",
    "GIST",
    "HFT",
    "LARF",
    "LESS",
    "METHODS",
    "PRESETS",
    "PTST",
    "SEAL",
    "SFT",
    "SPARD",
    "SQSD",
    "TOSS",
    "AllReferences",
    "Antibody",
    "Antidote",
    "Booster",
    "Correction",
    "DualSelect",
    "GradShield",
    "Lisa",
    "LowestLoss",
    "Method",
    "ModerateG",
    "OLoRA",
    "ProFit",
    "Random",
    "RandomLength",
    "RandomReferences",
    "Replay",
    "Run",
    "SafeGrad",
    "SafeInstr",
    "Scores",
    "Selection",
    "StarDSS",
    "StaticReferences",
    "TOSSPro",
    "TokenCleaning",
    "available",
    "default_of",
    "get",
    "method",
    "option",
]
