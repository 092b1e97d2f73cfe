"""SafeGrad: gradient surgery against a fresh alignment gradient at every step."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset

from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, check_choice, check_positive, check_range
from dualselect.methods.corrections import project
from dualselect.methods.memory import check_batch_size, memory_gradient
from dualselect.methods.registry import method
from dualselect.options import option
from dualselect.selection import PRESERVATION_LOSSES, preservation_loss


@method
@dataclass
class SafeGrad(Method):
    """Remove what opposes a random reference batch's gradient from the task gradient, then add rho times it.

    "Gradient Surgery for Safe LLM Fine-Tuning", arXiv 2508.07172. The alignment loss is KL(start || current) on the
    answer tokens of the references. The surgery is done once per optimizer step, on the accumulated gradient.
    """

    name: ClassVar[str] = "safegrad"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "2.3 with as many references as task samples in a step"
    fidelity: ClassVar[str] = "faithful; references are differentiated without dropout"
    shards: ClassVar[bool] = True

    rho: float = option(1.0, "Weight of the alignment gradient in the update.")
    safe_batch_size: int = option(8, "References drawn for each optimizer step.")
    preservation_loss: str = option("kl", "Loss of the references.", PRESERVATION_LOSSES)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("rho", self.rho, 0.0)
        check_positive("safe_batch_size", self.safe_batch_size)
        check_choice("preservation_loss", self.preservation_loss, PRESERVATION_LOSSES)

    @property
    def needs_start(self) -> bool:
        """Whether the alignment loss compares with the starting weights."""
        return PRESERVATION_LOSSES[self.preservation_loss].needs_start

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Check that the pool can fill a batch."""
        check_batch_size(run, "references", self.safe_batch_size, "safe_batch_size")
        return task

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the projected task gradient plus rho times the alignment gradient."""
        loss = preservation_loss(self.preservation_loss, run.start)
        g_align = memory_gradient(run, "references", self.safe_batch_size, loss=loss)
        run.log(alignment_norm=g_align.norm(), task_alignment_cosine=g.cosine(g_align))
        return project(g, g_align, self.rho)
