"""TOSS-Pro: TOSS whose harmful model is trained further on the task samples that look riskiest to it."""

from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor

from dualselect.data.identity import INDEX_COLUMN
from dualselect.methods.base import Run, check_choice, check_positive, check_range
from dualselect.methods.registry import method
from dualselect.methods.toss import TOSS
from dualselect.options import option
from dualselect.selection import hard_top_k
from dualselect.selection.token_scores import TokenPlaces, highest, token_nll

_COLUMNS = ["input_ids", "labels"]
_RULES = ("share", "max", "mean")


@method
@dataclass
class TOSSPro(TOSS):
    """Before training, mask the answer tokens that a harmful model finds likelier, which has seen the riskiest samples.

    "Token-level Data Selection for Safe LLM Fine-tuning", arXiv 2603.01185: as `toss`, but in each of `rounds` rounds
    the task samples with the riskiest tokens join the harmful data, the harmful model is trained further on all of
    them, and the task is scored again.
    """

    name: ClassVar[str] = "toss-pro"
    cost: ClassVar[str] = "1, and once a training, and a forward pass over the task, for each pool and round"
    fidelity: ClassVar[str] = (
        "variant; the rounds are not in the released code, and how many samples join, by which rule and how long the "
        "model is trained on them could not be verified"
    )

    rounds: int = option(1, "Times that the harmful model is trained further (T); 0 is toss.")
    added_fraction: float = option(0.05, "Share of the task's samples that join the harmful data in a round (k).")
    rank_by: str = option(
        "share", "What ranks samples: share of tokens that would be masked, or maximum or mean of their scores.", _RULES
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("rounds", self.rounds, 0)
        check_positive("added_fraction", self.added_fraction, 1.0)
        check_choice("rank_by", self.rank_by, _RULES)

    def scores(self, task: Dataset, places: TokenPlaces, count: int, run: Run) -> Tensor:
        """Return the scores after the last round, `(n,)`."""
        pool = run.pool("harmful")
        with self.trained_on("utility", run):
            nll_utility = token_nll(pool, task)
        joined: list[int] = []
        with ExitStack() as trainings:  # each starts from the weights of the one before
            trainings.enter_context(self.trained_on("harmful", run))
            score = nll_utility - token_nll(pool, task)
            for _ in range(self.rounds):
                joined += self.riskiest(score, task, places, count, joined)
                samples = task.select(sorted(joined)).select_columns(_COLUMNS)
                harmful = run.rows("harmful").select_columns(_COLUMNS).cast(samples.features)
                trainings.enter_context(self.trained_on(concatenate_datasets([harmful, samples]), run))
                score = nll_utility - token_nll(pool, task)
        run.say(f"toss-pro: {len(joined)} of {len(task)} samples joined the harmful data")
        return score

    def riskiest(self, score: Tensor, task: Dataset, places: TokenPlaces, count: int, joined: list[int]) -> list[int]:
        """Return the rows of the samples that join the harmful data in a round; ties go to the lower index.

        Args:
            score: Scores of the tokens, `(n,)`.
            task: The task.
            places: Places of the tokens.
            count: Number of tokens that would be masked.
            joined: Rows that joined before; they do not join again.
        """
        names = task[INDEX_COLUMN]
        sizes = places.counts(len(task))
        if self.rank_by == "max":
            value = np.full(len(task), -np.inf)
            np.maximum.at(value, places.row, score.double().numpy())
        else:
            # A sample without any of the tokens to mask has a share of zero and no reason to join.
            of_tokens = highest(score, names, places, count) if self.rank_by == "share" else score.double().numpy()
            value = np.bincount(places.row, of_tokens, minlength=len(task)) / np.maximum(sizes, 1)
            value[value == 0 if self.rank_by == "share" else sizes == 0] = -np.inf
        value[joined] = -np.inf
        chosen = hard_top_k(-torch.from_numpy(value), torch.tensor(names), ceil(self.added_fraction * len(task) - 1e-9))
        return chosen.nonzero().flatten().tolist()
