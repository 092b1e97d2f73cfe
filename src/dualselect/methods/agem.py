"""A-GEM: an update may not raise the loss of a random memory batch."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset

from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, check_positive
from dualselect.methods.corrections import without_conflict
from dualselect.methods.memory import check_batch_size, memory_gradient
from dualselect.methods.registry import method
from dualselect.options import option


@method
@dataclass
class AGEM(Method):
    """Remove from the task gradient what opposes the gradient of a random memory batch; nothing is added.

    "Efficient Lifelong Learning with A-GEM", arXiv 1812.00420, eq. 11: g - (<g, g_ref> / <g_ref, g_ref>) g_ref where
    the two oppose each other, else g. The memory is the pool `references`. The projection is done on the gradient of
    the optimizer step, before it is clipped; Adam then rescales it element by element, after which it need no longer
    be orthogonal to the memory's.
    """

    name: ClassVar[str] = "agem"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "2 with as many memory as task samples in a step"
    fidelity: ClassVar[str] = "faithful"
    shards: ClassVar[bool] = True

    memory_batch_size: int = option(8, "Samples of the memory that each update is compared with.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("memory_batch_size", self.memory_batch_size)

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Check that the memory can fill a batch."""
        check_batch_size(run, "references", self.memory_batch_size)
        return task

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the task gradient without what opposes the memory's."""
        memory = memory_gradient(run, "references", self.memory_batch_size)
        run.log(memory_norm=memory.norm(), task_memory_cosine=g.cosine(memory))
        return without_conflict(g, memory)
