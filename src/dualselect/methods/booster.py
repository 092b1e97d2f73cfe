"""Booster: align a model so that a step on harmful data lowers the harmful loss less."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from datasets import Dataset

from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, check_positive, check_range
from dualselect.methods.memory import check_batch_size, drawn_batch
from dualselect.methods.registry import method
from dualselect.options import option


@method
@dataclass
class Booster(Method):
    """Align on safe answers while weakening what a step on harmful data would achieve.

    "Booster: Tackling Harmful Fine-tuning for Large Language Models via Attenuating Harmful Perturbation",
    arXiv 2409.01586. This is a method of the alignment stage: its task is prompts with safe answers, and the model it
    returns is fine-tuned on the user's task afterwards. With f the loss of the task and h that of a harmful batch it
    minimises f(w) + lamb * (h(w) - h(w')) with w' = w - alpha * grad h(w) / ||grad h(w)||, where w' counts as fixed.
    """

    name: ClassVar[str] = "booster"
    pools: ClassVar[tuple[str, ...]] = ("harmful",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "3"
    fidelity: ClassVar[str] = "faithful; harmful gradients are taken without dropout and weights are restored exactly"

    lamb: float = option(5.0, "Weight of the harmful loss's drop (lambda).")
    alpha: float = option(0.1, "Length of the harmful step whose effect is weakened.")
    harmful_batch_size: int = option(10, "Harmful samples drawn for each optimizer step.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("lamb", self.lamb, 0.0)
        check_positive("alpha", self.alpha)
        check_positive("harmful_batch_size", self.harmful_batch_size)

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Check that the pool can fill a batch."""
        check_batch_size(run, "harmful", self.harmful_batch_size, "harmful_batch_size")
        return task

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return g + lamb * (grad h(w) - grad h(w')), both on the same harmful batch."""
        if self.lamb == 0:
            return g
        pool, batch = run.pool("harmful"), drawn_batch(run, "harmful", self.harmful_batch_size)
        here = pool.gradient(batch)
        norm = here.norm()
        step = torch.where(norm > 0, -self.alpha / norm, 0.0)
        with run.moved(here.clone().scale(step)):
            there = pool.gradient(batch)
        run.log(harmful_norm=norm, harmful_norm_after_step=there.norm())
        return g.clone().axpy(self.lamb, here).axpy(-self.lamb, there)
