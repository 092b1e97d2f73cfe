"""Experience replay: every update adds the gradient of a random batch from the memory."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset

from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, check_positive, check_range
from dualselect.methods.memory import check_batch_size, memory_gradient
from dualselect.methods.registry import method
from dualselect.options import option


@method
@dataclass
class Replay(Method):
    """Add rho times the gradient of a random memory batch to that of the task; nothing is scored.

    "Experience Replay for Continual Learning", arXiv 1811.11682, in the form that all memory methods are compared with:
    the update minimises task loss + rho * memory loss. The memory is the pool `references`.
    """

    name: ClassVar[str] = "replay"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "2 with as many memory as task samples in a step"
    fidelity: ClassVar[str] = "variant; the memory has a mean and a weight of its own, and no off-policy correction"
    shards: ClassVar[bool] = True

    rho: float = option(1.0, "Weight of the memory's gradient in the update.")
    memory_batch_size: int = option(8, "Samples of the memory in each optimizer step.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("rho", self.rho, 0.0)
        check_positive("memory_batch_size", self.memory_batch_size)

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Check that the memory can fill a batch."""
        check_batch_size(run, "references", self.memory_batch_size)
        return task

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the task gradient plus rho times the memory's."""
        if self.rho == 0:
            return g
        memory = memory_gradient(run, "references", self.memory_batch_size)
        run.log(memory_norm=memory.norm(), task_memory_cosine=g.cosine(memory))
        return g.clone().axpy(self.rho, memory)
