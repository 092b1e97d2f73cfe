"""Token Cleaning: train on the answer tokens that a model tuned on good data has learned to predict."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.methods.base import Method, Run, check_positive
from dualselect.methods.registry import method
from dualselect.methods.sft import SFT
from dualselect.options import option
from dualselect.selection.token_scores import TokenPlaces, highest, token_nll, without_tokens


@method
@dataclass
class TokenCleaning(Method):
    """Before training, keep the answer tokens whose loss falls most when the model is tuned on good data.

    "Token Cleaning: Fine-Grained Data Selection for LLM Supervised Fine-Tuning", arXiv 2502.01968, ICML 2025. A token's
    score is its loss under the starting model minus that under the reference model, which is the starting model after
    training on the pool `utility`; the share `keep_fraction` of all answer tokens with the highest scores is trained
    on, the others stay in their context. With several `rounds` the reference model evolves: the task is divided at
    random into as many parts, and the model that has scored one part is trained on what is left of it before it scores
    the next.
    """

    name: ClassVar[str] = "token-cleaning"
    pools: ClassVar[tuple[str, ...]] = ("utility",)
    stage: ClassVar[str] = "before"
    cost: ClassVar[str] = (
        "1, and once a training on the pool and, but for the last part, on what is left of the task, and two forward "
        "passes over the task"
    )
    fidelity: ClassVar[str] = (
        "faithful; the first reference model is trained on a pool of its own, and after all rounds training begins anew"
    )

    keep_fraction: float = option(0.6, "Share of all answer tokens that is trained on.")
    rounds: int = option(
        1, "Parts of the task that are cleaned one after another by a reference model that evolves; 1 leaves it fixed."
    )
    pool_epochs: float | None = option(
        None, "Epochs of each training of the reference model. Unset: num_train_epochs of the run."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_positive("rounds", self.rounds)
        check_positive("pool_epochs", self.pool_epochs)

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task with all but its best tokens masked, without the samples that have no token left.

        Raises:
            ConfigError: A part of the task has too few answer tokens.
        """
        tokens = len(TokenPlaces.of(task))
        if self._count(tokens) == tokens:
            return task
        parts = self._parts(task, run)
        cleaned = concatenate_datasets(list(self._rounds(parts, run)))
        if len(parts) > 1:
            cleaned = cleaned.select(torch.tensor(cleaned[INDEX_COLUMN]).argsort(stable=True).tolist())
        run.say(
            f"token-cleaning: kept {len(TokenPlaces.of(cleaned))} of {tokens} answer tokens; "
            f"{len(task) - len(cleaned)} of {len(task)} samples have none left and are left out"
        )
        return cleaned

    def _count(self, tokens: int) -> int:
        return int(self.keep_fraction * tokens + 1e-9)  # 0.29 * 100 is not to become 28

    def _parts(self, task: Dataset, run: Run) -> list[Dataset]:
        """Return the task in parts of as many samples each, or one more, drawn at random."""
        if self.rounds == 1:
            return [task]
        order = torch.randperm(len(task), generator=run.generator("rounds"))
        parts = [task.select(rows.sort().values.tolist()) for rows in order.tensor_split(self.rounds)]
        if not all(self._count(len(TokenPlaces.of(part))) for part in parts):
            raise ConfigError(
                f"token-cleaning: rounds is {self.rounds}, so a part of the task's {len(task)} samples has too few "
                "answer tokens to keep one; lower rounds"
            )
        return parts

    def _rounds(self, parts: list[Dataset], run: Run) -> Iterator[Dataset]:
        """Yield what is left of the parts, each by the model that has been trained on the pool and those before it."""
        pool, changes = run.pool("utility"), dict[str, Any]()
        if self.pool_epochs is not None:
            changes = {"num_train_epochs": self.pool_epochs, "max_steps": -1}
        before = [token_nll(pool, part) for part in parts]
        data: str | Dataset = "utility"
        with ExitStack() as trainings:
            for part, nll in zip(parts, before, strict=True):
                trainings.enter_context(run.trained(SFT(), data, **changes))
                data = self._cleaned(part, nll - token_nll(pool, part))
                yield data

    def _cleaned(self, part: Dataset, score: Tensor) -> Dataset:
        places = TokenPlaces.of(part)
        kept = highest(score, part[INDEX_COLUMN], places, self._count(len(places)))
        return without_tokens(part, places, ~kept)
