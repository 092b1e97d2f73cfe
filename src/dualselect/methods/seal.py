"""SEAL: train on the task samples that a bilevel selector finds to agree with safe samples."""

from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from dualselect.data.identity import INDEX_COLUMN
from dualselect.gradients import Direction
from dualselect.methods.base import Run, Scores, check_positive, check_range
from dualselect.methods.joint import JointLoop, WeightOptions
from dualselect.methods.registry import method
from dualselect.options import option
from dualselect.selection import hard_top_k, measures


@dataclass
class SelectorOptions(WeightOptions):
    """Options of the loop that trains the selector."""

    upper_weight: float = option(1.0, "Weight u of the references' loss in the first epoch; the task's is 1 - u.")
    upper_weight_decay: float = option(0.03, "What u is lowered by at the start of each later epoch of the selector.")
    penalty: bool = option(
        False, "Compare losses with those of a second model, trained on the weighted task alone: the penalty form."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("upper_weight", self.upper_weight, 0.0, 1.0)
        check_range("upper_weight_decay", self.upper_weight_decay, 0.0)


@method
@dataclass
class SEAL(SelectorOptions):
    """Before training, learn a weight for every task sample by its agreement with safe samples, and keep the highest.

    "SEAL: Safety-enhanced Aligned LLM Fine-tuning via Bilevel Data Selection", arXiv 2410.07471, ICLR 2025: choose
    logits v so that a model trained on the task by the weights N softmax(v) has the lowest loss on safe samples. One
    loop makes, with each pair of batches, a step of the model on u mean loss of the references + (1 - u) mean of
    w_i loss_i of the task, and a step of v on the mean of w_i loss_i. Then the model starts anew and is trained plainly
    on the share `keep_fraction` of the samples with the largest v.
    """

    name: ClassVar[str] = "seal"
    stage: ClassVar[str] = "before"
    cost: ClassVar[str] = "1, and once 2 for every step of the selector's epochs (about 3.7 with penalty)"
    fidelity: ClassVar[str] = (
        "faithful; to the released code's single loop. Whether the paper keeps the penalty's second term could not be "
        "verified, and the form of option penalty is ours"
    )

    keep_fraction: float = option(0.8, "Share of the samples to keep, in (0, 1]; 1 is plain fine-tuning.")
    selector_epochs: float = option(3.0, "Epochs of the selector's loop over the task.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_positive("selector_epochs", self.selector_epochs)

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the samples with the largest logits, in their order; the task itself where that is all of them."""
        count = int(self.keep_fraction * len(task) + 1e-9)  # 0.29 * 100 must not become 28
        if count == len(task):
            return task
        loop = SelectorLoop(**{option.name: getattr(self, option.name) for option in fields(SelectorOptions)})
        with run.trained(loop, task, num_train_epochs=self.selector_epochs, max_steps=-1):
            pass  # the model is only needed while the selector learns
        assert loop.learned is not None
        logits = loop.learned.logits.cpu()
        kept = hard_top_k(-logits, torch.tensor(task[INDEX_COLUMN]), count).nonzero().flatten().tolist()
        run.say(
            f"seal: keeps {len(kept)} of {len(task)} samples; the selector's logits are {logits.min():.3g} to "
            f"{logits.max():.3g}"
        )
        return task.select(kept)


@dataclass
class SelectorLoop(JointLoop, SelectorOptions):
    """The loop that trains the selector; its model is thrown away."""

    name: ClassVar[str] = "seal-selector"

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task as it is; the second model starts where the first does."""
        if self.penalty:
            self._task = replace(run.pool_of(task), progress=False, folder=None)
            self._lower = Direction.of(run.params)
            self._optimizer = torch.optim.Adam([self._lower.vector])
        return super().prepare(task, run)

    def shares(self, run: Run) -> tuple[float, float]:
        """Return 1 - u and u."""
        upper = max(0.0, self.upper_weight - self.upper_weight_decay * run.epoch)
        return 1.0 - upper, upper

    def loss_of_weights(self, scores: Scores, rows: Tensor, weights: Tensor, run: Run) -> Tensor:
        """Return the losses; with `penalty` those of the first model minus those of the second, which makes a step.

        The penalty is that of the lower level of the bilevel problem, G(model, v) - min over models of G(., v), whose
        gradient by w_i is loss_i(model) - loss_i(second model).
        """
        if not self.penalty:
            return scores.loss
        batch = self._task.subset(rows.tolist())
        upper = batch.scan([measures.loss()])["loss"]  # again, since both have to be without dropout
        with run.moved(self._lower.clone().axpy(-1.0, Direction.of(run.params))):
            lower = batch.scan([measures.loss()])["loss"]
            gradient = batch.gradient(weights[rows].cpu() / len(rows))
        self._optimizer.param_groups[0]["lr"] = run.learning_rate
        self._lower.vector.grad = gradient.vector
        self._optimizer.step()
        return (upper - lower).to(scores.loss.device)
