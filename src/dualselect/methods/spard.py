"""SPARD: after every step, project the weights to where references that resemble the task keep their safe answers."""

from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, State, check_choice, check_positive, check_range
from dualselect.methods.memory import drawn_batch
from dualselect.methods.registry import method
from dualselect.options import option
from dualselect.selection import measures
from dualselect.selection.prompts import prompt_embeddings
from dualselect.statistics.dpp import greedy_map

_TASK_BLOCK = 4096  # samples of the task that the references are compared with at once
PROJECTIONS = ("paper", "released-code")


@method
@dataclass
class SPARD(Method):
    """Keep the loss of safe references below a threshold by a step on them after every task step that leaves it above.

    "SPARD: Defending Harmful Fine-Tuning Attack via Safety Projection with Relevance-Diversity Data Selection",
    arXiv 2605.28030, ICML 2026. Before training a determinantal point process chooses references: relevant ones, by
    q_i = max over the task of the cosine of prompt embeddings e, and diverse ones, by the kernel
    K_ij = (q_i q_j)^beta <e_i, e_j> + 1e-6 [i = j], of which the largest determinant is sought greedily. After every
    optimizer step, at the weights w with loss l and gradient g of a batch of these references,
    w <- w - min((l - tau) / ||g||^2, eta) g where l > tau: the projection to {l + <g, w' - w> <= tau}, capped.
    """

    name: ClassVar[str] = "spard"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = (
        "1, and per step a forward pass on the safe batch, with a second one and a backward pass where it is above the "
        "threshold; once a forward pass over the prompts of references and task"
    )
    fidelity: ClassVar[str] = (
        "simplified; equations from a summary of the paper and its released code; prompts are embedded by the model "
        "that is trained"
    )

    threshold: float = option(0.2, "Loss of a safe batch above which the weights are projected (tau).")
    safe_batch_size: int = option(1, "Chosen references drawn after each optimizer step.")
    safe_fraction: float = option(0.03, "References to choose, as a share of the task's samples (p).")
    relevance_power: float = option(4.0, "Power of the relevance in the kernel (beta); 0 looks at diversity alone.")
    projection: str = option(
        "paper", "Plain step on the weights, or a step of the task's optimizer as in the released code.", PROJECTIONS
    )
    largest_factor: float | None = option(
        None, "Cap of the factor of the gradient (eta). Unset: 5e-5, and 1 with the released code."
    )
    tolerance: float | None = option(
        None, "Distance from the threshold that is put up with. Unset: 0, and 0.1 with the released code."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("threshold", self.threshold, 0.0)
        check_positive("safe_batch_size", self.safe_batch_size)
        check_positive("safe_fraction", self.safe_fraction)
        check_range("relevance_power", self.relevance_power, 0.0)
        check_choice("projection", self.projection, PROJECTIONS)
        check_positive("largest_factor", self.largest_factor)
        check_range("tolerance", self.tolerance, 0.0)
        is_paper = self.projection == "paper"
        self._cap = self.largest_factor if self.largest_factor is not None else 5e-5 if is_paper else 1.0
        self._slack = self.tolerance if self.tolerance is not None else 0.0 if is_paper else 0.1
        self._chosen: list[str] = []
        self._weights: Tensor | None = None

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Choose the references; the task stays as it is."""
        pool = run.pool()
        count = min(ceil(self.safe_fraction * len(task) - 1e-9), len(pool))
        rows = list(range(len(pool))) if count == len(pool) else self._choice(task, run, count)
        self._chosen = [pool.ids[row] for row in rows]
        run.say(f"spard: keeps the loss of {len(rows)} of {len(pool)} references below {self.threshold:g}")
        return task

    def _choice(self, task: Dataset, run: Run, count: int) -> list[int]:
        references = prompt_embeddings(run.pool(), "Embedding references")
        prompts = prompt_embeddings(run.pool_of(task), "Embedding the task")
        blocks = [(references @ block.T).amax(1) for block in prompts.split(_TASK_BLOCK)]
        relevance = torch.stack(blocks).amax(0).clamp_min(0.0)  # an even power would make the opposite relevant
        return greedy_map((relevance[:, None] ** self.relevance_power * references).double().numpy(), count)

    def end_step(self, run: Run) -> None:
        """Measure a safe batch, and project the weights if its loss is above the threshold."""
        pool = run.pool()
        if self._weights is None:
            chosen = set(self._chosen)
            self._weights = torch.tensor([float(name in chosen) for name in pool.ids])
        batch = drawn_batch(run, "references", self.safe_batch_size, self._weights)
        rows = batch.nonzero().flatten()
        found = pool.subset(rows.tolist()).scan([measures.loss()], title="Loss of the safe batch")
        loss = (batch[rows] * found["loss"]).sum()
        is_above = bool(loss > self.threshold + self._slack)  # not where it is not a number
        run.log(safe_loss=loss, projected=float(is_above))
        if not is_above:
            return
        excess, g = loss - self.threshold, pool.gradient(batch)
        if self.projection == "paper":
            run.move(g.scale(-(excess.to(g.vector.device) / g.dot(g)).clamp_max(self._cap)))
        else:
            run.optimize(_scaled_by_tensor(g, float(excess), self._cap))

    def state_dict(self) -> State:
        """Return the ids of the chosen references."""
        return {}, {"chosen": self._chosen}

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._chosen, self._weights = values["chosen"], None


def _scaled_by_tensor(g: Direction, excess: float, cap: float) -> Direction:
    """Return g with each parameter's part times min(excess / its norm, cap), as the released code does."""
    parts = list(g.views().values())
    factors = [(excess / norm).clamp_max(cap) for norm in torch._foreach_norm(parts)]
    torch._foreach_mul_(parts, factors)
    return g
