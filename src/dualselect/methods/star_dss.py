"""STAR-DSS: learn each token of an answer as far as a guard finds the answer safe up to there."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset

from dualselect.errors import ConfigError, one_line
from dualselect.gradients import DIVERGENCES, Batch, Losses, per_sample_guarded
from dualselect.methods.base import Method, Run, check_choice, check_range
from dualselect.methods.dft import log_weight
from dualselect.methods.registry import method
from dualselect.models.files import file_hash
from dualselect.models.modes import eval_mode
from dualselect.options import option
from dualselect.runs.guard_scores import GuardScores
from dualselect.selection.token_scores import TokenPlaces, with_token_weights


@method
@dataclass
class StarDSS(Method):
    """Weigh each token by the safety of its answer so far, and hold the other tokens to the starting model.

    "Shape it Up! Restoring LLM Safety during Finetuning", arXiv 2505.17196, NeurIPS 2025. A guard model judges every
    answer up to the end of each chunk of its tokens; V is the probability that it is safe up to there, for all tokens
    of the chunk. The loss is sum_t [V_t nll_t + (1 - V_t) kl_weight KL_t(current || start)] / n. The guards' scores are
    made once, by `dualselect guard`.
    """

    name: ClassVar[str] = "star-dss"
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1.3; once, before, a guard's forward pass for every chunk of every answer"
    fidelity: ClassVar[str] = (
        "simplified; equations from a summary of the paper and a copy of its released code; a guard that writes its "
        "verdict gives 0 or 1"
    )

    guard_scores: str = option("", "File that `dualselect guard` wrote of this task; must be given.")
    kl_weight: float = option(0.5, "Weight of the divergence from the starting model where the guard objects (lambda).")
    divergence: str = option(
        "kl", "KL over the vocabulary, or k2, its estimate from the label alone, as in the released code.", DIVERGENCES
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("kl_weight", self.kl_weight, 0.0)
        check_choice("divergence", self.divergence, DIVERGENCES)

    @property
    def needs_start(self) -> bool:
        """Whether tokens are held to the starting weights."""
        return self.kl_weight > 0

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Return the task with V as the weight of each token; 0 where no guard came to a verdict."""
        scores = GuardScores.read(self._file)
        places = TokenPlaces.of(task)
        safe = scores.by_token(run.pool_of(task).ids, places.counts(len(task)))
        missing = f"; {np.isnan(safe).mean():.1%} of them have no verdict and count as unsafe"
        run.say(
            f"star-dss: answer tokens are safe with a mean probability of {np.nanmean(safe):.3f}"
            f"{missing if np.isnan(safe).any() else ''}"
        )
        return with_token_weights(task, places, np.nan_to_num(safe, nan=0.0))

    def losses(self, batch: Batch, run: Run) -> Losses:
        """Return every sample's loss: learning weighed by V, and the divergence by 1 - V."""
        losses = per_sample_guarded(
            run.model,
            batch,
            kl_weight=self.kl_weight,
            divergence=self.divergence,
            starting_point=partial(_start_without_dropout, run) if self.needs_start else None,
            statistics=True,
        )
        log_weight(losses, run)
        return losses

    def identity(self) -> dict[str, Any]:
        """Return the options, with the hash of the scores in place of their path."""
        try:
            return super().identity() | {"guard_scores": file_hash(self._file)}
        except OSError as error:
            raise ConfigError(
                f"guard_scores: {self._file} could not be read ({one_line(error)}); a run that continues compares it "
                "with the file that it began with"
            ) from None

    @property
    def _file(self) -> Path:
        if not self.guard_scores:
            raise ConfigError(
                "star-dss needs guard_scores: score the task with `dualselect guard`, and name the file it writes"
            )
        return Path(self.guard_scores).expanduser()


@contextmanager
def _start_without_dropout(run: Run) -> Iterator[None]:
    """Return a context of the starting weights in which no dropout is drawn, so that it stays that of plain SFT."""
    with eval_mode(run.model), run.start():
        yield
