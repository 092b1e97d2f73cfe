"""SafeGrad: gradient surgery against a fresh alignment gradient at every step."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from dualselect.errors import ConfigError
from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, check_choice, check_positive, check_range
from dualselect.methods.corrections import corrected
from dualselect.selection import PRESERVATION_LOSSES


@dataclass
class SafeGrad(Method):
    """Remove what opposes a random reference batch's gradient from the task gradient, then add rho times it.

    "Gradient Surgery for Safe LLM Fine-Tuning", arXiv 2508.07172. The alignment loss is KL(start || current) on the
    answer tokens of the references. The surgery is done once per optimizer step, on the accumulated gradient.
    """

    name: ClassVar[str] = "safegrad"
    needs_references: ClassVar[bool] = True

    rho: float = field(default=1.0, metadata={"help": "Weight of the alignment gradient in the update."})
    safe_batch_size: int = field(default=8, metadata={"help": "References drawn for each optimizer step."})
    preservation_loss: str = field(
        default="kl", metadata={"help": "Loss of the references.", "choices": list(PRESERVATION_LOSSES)}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("rho", self.rho, 0.0)
        check_positive("safe_batch_size", self.safe_batch_size)
        check_choice("preservation_loss", self.preservation_loss, PRESERVATION_LOSSES)

    def prepare(self, run: Run) -> None:
        """Check that the pool can fill a batch."""
        if self.safe_batch_size > len(run.references):
            raise ConfigError(
                f"safe_batch_size is {self.safe_batch_size} but the pool holds {len(run.references)} references: "
                "lower it or add references"
            )

    def correct(self, g_task: Direction, run: Run) -> Direction:
        """Return the projected task gradient plus rho times the alignment gradient."""
        generator = torch.Generator().manual_seed(run.seed * 1_000_003 + run.step)
        chosen = torch.randperm(len(run.references), generator=generator)[: self.safe_batch_size]
        weights = torch.zeros(len(run.references))
        weights[chosen] = 1.0 / self.safe_batch_size
        g_align = run.references.gradient(weights)
        run.log(alignment_norm=g_align.norm(), task_alignment_cosine=g_task.cosine(g_align))
        return corrected(g_task, g_align, correction="project", rho=self.rho)
