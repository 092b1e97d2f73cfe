"""Plain supervised fine-tuning: the empty method."""

from dataclasses import dataclass
from typing import ClassVar

from dualselect.methods.base import Method
from dualselect.methods.registry import method


@method
@dataclass
class SFT(Method):
    """Plain supervised fine-tuning, the baseline."""

    name: ClassVar[str] = "sft"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = "faithful"
    shards: ClassVar[bool] = True
