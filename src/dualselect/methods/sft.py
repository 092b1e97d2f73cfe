"""Plain supervised fine-tuning: the empty method."""

from dataclasses import dataclass
from typing import ClassVar

from dualselect.methods.base import Method


@dataclass
class SFT(Method):
    """Plain supervised fine-tuning, the baseline: every step is TRL's own."""

    name: ClassVar[str] = "sft"
    selects: ClassVar[bool] = False
