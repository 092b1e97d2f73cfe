"""Token Cleaning: train on the answer tokens that a model tuned on good data has learned to predict."""

from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset

from dualselect.data.identity import INDEX_COLUMN
from dualselect.methods.base import Method, Run, check_positive
from dualselect.methods.registry import method
from dualselect.methods.sft import SFT
from dualselect.options import option
from dualselect.selection.token_scores import TokenPlaces, highest, token_nll, without_tokens


@method
@dataclass
class TokenCleaning(Method):
    """Before training, keep the answer tokens whose loss falls most when the model is tuned on good data.

    "Token Cleaning: Fine-Grained Data Selection for LLM Supervised Fine-Tuning", arXiv 2502.01968, with a fixed
    reference model. A token's score is its loss under the starting model minus that under the reference model, which
    is the starting model after training on the pool `utility`; the share `keep_fraction` of all answer tokens with the
    highest scores is trained on, the others stay in their context.
    """

    name: ClassVar[str] = "token-cleaning"
    pools: ClassVar[tuple[str, ...]] = ("utility",)
    stage: ClassVar[str] = "before"
    cost: ClassVar[str] = "1, and once a training on the pool and two forward passes over the task"
    fidelity: ClassVar[str] = "simplified; the reference model is fixed, no self-evolving rounds"

    keep_fraction: float = option(0.6, "Share of all answer tokens that is trained on.")
    pool_epochs: float | None = option(None, "Epochs of the training on the pool. Unset: num_train_epochs of the run.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_positive("pool_epochs", self.pool_epochs)

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task with all but its best tokens masked, without the samples that have no token left."""
        places = TokenPlaces.of(task)
        count = int(self.keep_fraction * len(places) + 1e-9)  # 0.29 * 100 is not to become 28
        if count == len(places):
            return task
        pool, changes = run.pool("utility"), dict[str, Any]()
        if self.pool_epochs is not None:
            changes = {"num_train_epochs": self.pool_epochs, "max_steps": -1}
        nll = token_nll(pool, task)
        with run.trained(SFT(), "utility", **changes):
            score = nll - token_nll(pool, task)
        kept = highest(score, task[INDEX_COLUMN], places, count)
        cleaned = without_tokens(task, places, ~kept)
        run.say(
            f"token-cleaning: kept {count} of {len(places)} answer tokens; {len(task) - len(cleaned)} of {len(task)} "
            "samples have none left and are left out"
        )
        return cleaned
