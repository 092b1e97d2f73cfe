"""SafeInstr: mix safety samples into the task."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

from dualselect.data.identity import INDEX_COLUMN
from dualselect.errors import ConfigError
from dualselect.methods.base import Method, Run, check_range
from dualselect.methods.registry import method
from dualselect.options import option
from dualselect.selection.token_scores import TokenPlaces

_COLUMNS = ["input_ids", "labels", INDEX_COLUMN]


@method
@dataclass
class SafeInstr(Method):
    """Train plainly on the task with safety samples mixed in, each once an epoch.

    "Safety-Tuned LLaMAs: Lessons From Improving the Safety of Large Language Models that Follow Instructions", arXiv
    2309.07875. The safety samples are the pool `references`, or a random draw from it.
    """

    name: ClassVar[str] = "safeinstr"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "before"
    cost: ClassVar[str] = "1; an epoch is longer by the safety samples"
    fidelity: ClassVar[str] = "faithful; prompts are no targets, unless completion_only_loss is false"
    shards: ClassVar[bool] = True

    safety_samples: int | None = option(None, "References to mix in, drawn at random. Unset: all of the pool.")
    replace: bool = option(
        False, "Leave out random task samples with as many supervised tokens as come in, so that a budget stays equal."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("safety_samples", self.safety_samples, 0)

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task with the safety samples after its own; the trainer shuffles them."""
        added = self._drawn(run)
        if len(added) == 0:
            return task
        kept = self._without_tokens_of(added, task, run) if self.replace else task
        run.say(f"safeinstr: {len(added)} safety samples beside {len(kept)} of {len(task)} task samples")
        return concatenate_datasets([kept.select_columns(_COLUMNS), added.cast(task.select_columns(_COLUMNS).features)])

    def _drawn(self, run: Run) -> Dataset:
        rows = run.rows("references").select_columns(_COLUMNS)
        wanted = len(rows) if self.safety_samples is None else self.safety_samples
        if wanted > len(rows):
            raise ConfigError(
                f"safety_samples is {wanted} but the pool has {len(rows)} references: lower it or add references"
            )
        order = torch.randperm(len(rows), generator=run.generator("safety samples"))
        return rows.select(order[:wanted].sort().values.tolist())

    def _without_tokens_of(self, added: Dataset, task: Dataset, run: Run) -> Dataset:
        """Return the task without random samples that have as many supervised tokens, to the nearest sample."""
        room = TokenPlaces.of(added).counts(len(added)).sum()
        order = torch.randperm(len(task), generator=run.generator("replaced samples")).numpy()
        reach = np.concatenate([[0], TokenPlaces.of(task).counts(len(task))[order].cumsum()])
        if room > reach[-1]:
            raise ConfigError(
                f"replace: the safety samples have {room} supervised tokens, the task {reach[-1]}: lower safety_samples"
            )
        left_out = int(np.abs(reach - room).argmin())
        return task.select(np.sort(order[left_out:]))
