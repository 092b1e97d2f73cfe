"""Training on the task by learned weights and on safe samples at once: the loop that SEAL and BDS share."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from dualselect.data.identity import INDEX_COLUMN
from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, Scores, Selection, State, check_choice, check_positive, check_range
from dualselect.methods.memory import memory_gradient
from dualselect.options import option
from dualselect.selection.learned_weights import FORMS, LearnedWeights, effective_size


@dataclass
class WeightOptions(Method):
    """Options of the methods that learn a weight for every sample of the task."""

    pools: ClassVar[tuple[str, ...]] = ("references",)

    weight_form: str = option(
        "softmax", "Weight of a sample: N softmax(v) over all N samples, or 2 sigmoid(v) of its own.", FORMS
    )
    weight_learning_rate: float = option(5e-3, "Learning rate of Adam on the weights' logits v; 0 keeps all weights 1.")
    safe_batch_size: int | None = option(
        None, "References drawn for each optimizer step. Unset: as many as it has task samples."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("weight_form", self.weight_form, FORMS)
        check_range("weight_learning_rate", self.weight_learning_rate, 0.0)
        check_positive("safe_batch_size", self.safe_batch_size)


@dataclass
class JointLoop(WeightOptions):
    """Base of the loops that make a step on model and weights with each pair of batches, of the task and of references.

    The model minimises a * mean of w_i loss_i over the task's batch + b * mean loss over the references' batch, where
    the weights count as constants; the weights minimise the mean of w_i loss_i over the task's batch, where the losses
    do. Both see the weights and losses from before the step.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.learned: LearnedWeights | None = None
        self._candidates = 0

    def shares(self, run: Run) -> tuple[float, float]:
        """Return a and b, what the losses of task and references count for in this step."""
        return 1.0, 1.0

    def loss_of_weights(self, scores: Scores, rows: Tensor, weights: Tensor, run: Run) -> Tensor:
        """Return what a candidate's weight is multiplied with in the objective of the weights, `(B,)`.

        Args:
            scores: Measurements of the B candidates.
            rows: Their places among the N samples of the task, in the order of their indices.
            weights: The weights of all N samples.
            run: The run.
        """
        return scores.loss

    def prior(self, weights: Tensor, logits: Tensor) -> Tensor:
        """Return what is added to the objective of the weights, `()`, given all weights and logits, `(N,)` each."""
        return logits.new_zeros(())

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task as it is; all its samples begin with the same weight."""
        self.learned = LearnedWeights(torch.tensor(task[INDEX_COLUMN]), self.weight_form)
        return task

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return the candidates' weights, and then learn from their losses."""
        assert self.learned is not None  # since `prepare`, or restored from a checkpoint
        learned = self.learned.to(scores.loss.device)
        rows, weights = learned.rows(scores.index), learned.weights()
        chosen = Selection(weights[rows], {"logit": learned.logits[rows]}, absolute=True)
        run.log(effective_samples=effective_size(weights))
        self._candidates = len(rows)
        loss = self.loss_of_weights(scores, rows, weights, run)
        learned.learn(rows, loss, self.weight_learning_rate, self.prior)
        return chosen

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the gradient of both losses."""
        of_task, of_references = self.shares(run)
        total = g.clone().scale(of_task)
        if of_references == 0:
            return total
        safe = memory_gradient(run, "references", self.safe_batch_size or self._candidates)
        return total.axpy(of_references, safe)

    def state_dict(self) -> State:
        """Return the learned weights."""
        return {}, {} if self.learned is None else {"learned": self.learned.state()}

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.learned = LearnedWeights.of(values["learned"]) if "learned" in values else None
