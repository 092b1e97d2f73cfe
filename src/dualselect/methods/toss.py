"""TOSS: leave out the answer tokens that a safety-degraded model likes better than a useful one."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset
from torch import Tensor

from dualselect.data.identity import INDEX_COLUMN
from dualselect.methods.base import Method, Run, check_positive, check_range
from dualselect.methods.registry import method
from dualselect.methods.sft import SFT
from dualselect.options import option
from dualselect.selection.token_scores import TokenPlaces, highest, token_nll, without_tokens


@method
@dataclass
class TOSS(Method):
    """Before training, mask the answer tokens that a safety-degraded model finds likelier than a useful one.

    "Token-level Data Selection for Safe LLM Fine-tuning", arXiv 2603.01185. Two models are trained from the same
    start, one on harmful and one on high-quality answers. A token's score is its loss under the useful model minus
    that under the harmful one; the share `drop_fraction` of all answer tokens with the highest scores is not trained
    on, though it stays in the context of the others.
    """

    name: ClassVar[str] = "toss"
    pools: ClassVar[tuple[str, ...]] = ("harmful", "utility")
    stage: ClassVar[str] = "before"
    cost: ClassVar[str] = "1, and two trainings on the pools and two forward passes over the task, once"
    fidelity: ClassVar[str] = "faithful; averages over kept tokens, as the released code does; TOSS-Pro is toss-pro"

    drop_fraction: float = option(0.1, "Share of all answer tokens that is not trained on (d).")
    pool_epochs: float | None = option(
        None, "Epochs of the trainings on the pools. Unset: num_train_epochs of the run."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("drop_fraction", self.drop_fraction, 0.0, 1.0)
        check_positive("pool_epochs", self.pool_epochs)

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task with its riskiest tokens masked, without the samples that have no token left."""
        places = TokenPlaces.of(task)
        count = int(self.drop_fraction * len(places) + 1e-9)  # 0.29 * 100 must not become 28
        if count == 0:
            return task
        dropped = highest(self.scores(task, places, count, run), task[INDEX_COLUMN], places, count)
        kept = without_tokens(task, places, dropped)
        run.say(
            f"{self.name}: masked {count} of {len(places)} answer tokens; {len(task) - len(kept)} of {len(task)} "
            "samples have none left and are left out"
        )
        return kept

    def scores(self, task: Dataset, places: TokenPlaces, count: int, run: Run) -> Tensor:
        """Return the score of every answer token, `(n,)`: its loss under the useful minus that under the harmful model.

        Args:
            task: The task.
            places: Places of its n answer tokens.
            count: Number of tokens that will be masked.
            run: The run, before its first step.
        """
        with self.trained_on("harmful", run):
            nll_harmful = token_nll(run.pool("harmful"), task)
        with self.trained_on("utility", run):
            return token_nll(run.pool("utility"), task) - nll_harmful

    def trained_on(self, data: str | Dataset, run: Run) -> AbstractContextManager[Any]:
        """Return a context in which the model has been trained on a pool, or on tokenised samples."""
        changes: dict[str, Any] = {}
        if self.pool_epochs is not None:
            changes = {"num_train_epochs": self.pool_epochs, "max_steps": -1}
        return run.trained(SFT(), data, **changes)
