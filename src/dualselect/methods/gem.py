"""GEM: an update may not raise the loss of any of several memories."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray

from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, check_positive, check_range
from dualselect.methods.memory import check_batch_size, memory_gradient
from dualselect.methods.registry import method
from dualselect.options import option

_SWEEPS = 10_000  # over K numbers; a few are enough unless gradients nearly agree


@method
@dataclass
class GEM(Method):
    """Replace the task gradient by the nearest direction that opposes no memory's gradient.

    "Gradient Episodic Memory for Continual Learning", arXiv 1706.08840, eq. 11: z = g + G^T v, where v minimises
    1/2 v^T G G^T v + (G g)^T v subject to v >= margin, and the rows of G are the memories' gradients. A memory is a
    pool of its own: `references`, and one for each earlier task or each kind of safe answers.
    """

    name: ClassVar[str] = "gem"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1 + K for K memories with as many samples as the task in a step"
    fidelity: ClassVar[str] = "faithful; memories are batches drawn anew for each update"

    further_memories: str = option("", "Pools that are memories besides `references`, by comma: task-1,task-2.")
    memory_batch_size: int = option(8, "Samples of each memory that an update is compared with.")
    margin: float = option(
        0.0,
        "Least weight of each memory's gradient in units of the task gradient over the memory's; 0 is the program of "
        "the paper's eq. 11; above 0 the update differs from the task's even without a conflict.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("memory_batch_size", self.memory_batch_size)
        check_range("margin", self.margin, 0.0)
        self.pools = tuple(self.names)  # type: ignore[misc]  # of this one, so that the trainer makes all of them

    @property
    def names(self) -> list[str]:
        """The names of the memories."""
        further = [name for part in self.further_memories.split(",") if (name := part.strip())]
        return list(dict.fromkeys(["references", *further]))

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Check that every memory is there and can fill a batch."""
        for name in self.names:
            check_batch_size(run, name, self.memory_batch_size)
        return task

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the nearest direction to the task gradient that opposes no memory's."""
        found = [memory_gradient(run, name, self.memory_batch_size) for name in self.names]
        names = [name.replace("-", "_") for name in self.names]
        run.log(**{f"cosine_{name}": g.cosine(memory) for name, memory in zip(names, found, strict=True)})
        return nearest_without_conflict(g, found, self.margin)


def nearest_without_conflict(g: Direction, memories: list[Direction], margin: float = 0.0) -> Direction:
    """Return the nearest direction to `g` whose inner product with every memory is not negative.

    All that leaves the device is the (K + 1) x (K + 1) table of inner products.

    Args:
        g: Task gradient.
        memories: K gradients that it must not oppose; a zero one is no constraint.
        margin: Least coefficient of every memory's unit vector, in units of the norm of `g`.
    """
    rows = torch.stack([g.vector, *(memory.vector for memory in memories)])
    table = (rows @ rows.T).double().cpu().numpy()
    norms = np.sqrt(np.diag(table))
    scale = np.where(norms > 0, norms, 1.0)
    cosines = table / np.outer(scale, scale)
    coefficients = np.where(norms[1:] > 0, dual_solution(cosines[1:, 1:], cosines[1:, 0], margin), 0.0)
    result = g.clone()
    for coefficient, memory in zip(coefficients * norms[0] / scale[1:], memories, strict=True):
        result.axpy(float(coefficient), memory)
    return result


def dual_solution(gram: NDArray[np.float64], linear: NDArray[np.float64], margin: float) -> NDArray[np.float64]:
    """Return v that minimises 1/2 v^T gram v + linear^T v subject to v >= margin, by coordinate descent.

    Args:
        gram: Positive semidefinite matrix, shape `(K, K)`, with ones (or zeros) on the diagonal.
        linear: Linear term, shape `(K,)`.
        margin: Least value of every coordinate.
    """
    v = np.full(len(linear), margin)
    for _ in range(_SWEEPS):
        before = v.copy()
        for k in range(len(v)):
            if gram[k, k] > 0:
                v[k] = max(margin, v[k] - (gram[k] @ v + linear[k]) / gram[k, k])
        if np.abs(v - before).max(initial=0.0) < 1e-12:
            break
    return v
