"""Controls: what a selection has to beat, each DualSelect or a random choice with one thing changed."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from dualselect.methods.base import Run, Scores, Selection, check_choice, check_positive
from dualselect.methods.dualselect import DualSelect
from dualselect.methods.random import Random
from dualselect.methods.registry import method
from dualselect.options import option

_FIDELITY = "faithful; a control of our own"


def _changed(name: str, default: Any, **metadata: Any) -> Any:
    """Return DualSelect's option of that name with another default."""
    known = next(option for option in fields(DualSelect) if option.name == name)
    return option(default, **{**known.metadata, **metadata})


def _fixed(name: str, value: str) -> Any:
    """Return DualSelect's option of that name, which has one value only: it is what the control is named for."""
    return _changed(name, value, choices=(value,))


@dataclass
class _Control(DualSelect):
    """DualSelect whose options may have fewer choices."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for known in fields(self):
            value, choices = getattr(self, known.name), known.metadata.get("choices")
            if choices is not None and value is not None:
                check_choice(known.name, value, choices)


@method
@dataclass
class StaticReferences(_Control):
    """DualSelect that chooses its references once, after the warm-up, and keeps them."""

    name: ClassVar[str] = "static-references"
    cost: ClassVar[str] = "1, and one pass over the references"
    fidelity: ClassVar[str] = _FIDELITY

    refresh: str = _fixed("refresh", "once")


@method
@dataclass
class RandomReferences(_Control):
    """DualSelect that draws its references at random, anew at every refresh."""

    name: ClassVar[str] = "random-references"
    cost: ClassVar[str] = "1, and the gradient of the chosen references at every refresh"
    fidelity: ClassVar[str] = _FIDELITY

    reference_choice: str = _fixed("reference_choice", "random")


@method
@dataclass
class AllReferences(_Control):
    """DualSelect whose reference direction is the mean gradient of the whole pool."""

    name: ClassVar[str] = "all-references"
    cost: ClassVar[str] = "1, and a pass over the references at every refresh"
    fidelity: ClassVar[str] = _FIDELITY

    reference_choice: str = _fixed("reference_choice", "all")


@method
@dataclass
class RandomLength(_Control):
    """Keep random samples of the lengths that DualSelect's selection keeps, and add nothing of the references.

    DualSelect's weights are shuffled among candidates of similar length, so what is left of its selection is how long
    the kept samples are. The references only say which lengths; `correction` can bring their direction back.
    """

    name: ClassVar[str] = "random-length"
    cost: ClassVar[str] = "1, and a pass over the references at every refresh"
    fidelity: ClassVar[str] = _FIDELITY

    correction: str = _changed("correction", "none")
    length_group: int = option(4, "Candidates of similar length among which weights are shuffled, at least.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("length_group", self.length_group)

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return DualSelect's weights, shuffled within groups of similar length."""
        chosen = super().weights(scores, run)
        generator = run.generator("lengths")
        weights = _shuffled_by_length(chosen.weights, scores.tokens, scores.valid, self.length_group, generator)
        return Selection(weights, chosen.columns)


def _shuffled_by_length(
    weights: Tensor, tokens: Tensor, valid: Tensor, size: int, generator: torch.Generator
) -> Tensor:
    """Return weights, `(N,)`, shuffled among candidates that are neighbours when ordered by their tokens.

    Args:
        weights: Shape `(N,)`.
        tokens: Shape `(N,)`, int64.
        valid: Shape `(N,)`, bool; candidates that are not valid keep their own weight.
        size: Candidates of a group, at least.
        generator: CPU generator.
    """
    n = len(weights)
    ties, places = torch.rand(2, n, generator=generator, dtype=torch.float64).to(weights.device)
    order = ties.argsort()
    order = order[tokens[order].argsort(stable=True)]
    order = order[valid[order].long().argsort(descending=True, stable=True)]
    group = torch.arange(n, device=weights.device) * max(n // size, 1) // n
    apart = torch.arange(n, 2 * n, device=weights.device)
    key = torch.where(valid[order], group + places, apart)
    shuffled = weights.clone()
    shuffled[order] = weights[order[key.argsort()]]
    return shuffled


@method
@dataclass
class LowestLoss(Random):
    """Keep the samples of lowest loss, within the same share of the supervised tokens: DualSelect without references.

    What a cosine with the references adds is what DualSelect does better than this.
    """

    name: ClassVar[str] = "lowest-loss"
    fidelity: ClassVar[str] = _FIDELITY

    def values(self, scores: Scores, run: Run) -> Tensor:
        """Return the losses."""
        return scores.loss
