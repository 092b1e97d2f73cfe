"""Strategies: which references are chosen for each batch of the task, from sketched gradients and labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from dualselect.registry import Registry

Array = NDArray[np.float32]
CRITERIA = ("conflict", "alignment")


@dataclass(frozen=True)
class Candidates:
    """What strategies choose from. References without a finite gradient have been left out.

    Attributes:
        scores: Shape `(B, M)`: what each batch of the task says for choosing each reference. By the criterion
            'conflict' this is minus the cosine of the reference's gradient and the batch's direction.
        mean_scores: Shape `(M,)`: the same for the mean direction of all batches.
        batches: Names of the B batches.
        ids: Ids of the M references.
        categories: Safety categories of the references.
        top_k: References to choose for a batch.
        seed: Seed of all draws.
    """

    scores: Array
    mean_scores: Array
    batches: Sequence[str]
    ids: Sequence[str]
    categories: Sequence[str]
    top_k: int
    seed: int

    def generator(self, *purpose: str) -> np.random.Generator:
        """Return a generator that depends on the seed and the purpose alone, such as a strategy and a batch."""
        digest = sha256(repr((self.seed, *purpose)).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))


#: Returns the chosen references of every batch, `(B, top_k)` places among the candidates, best first.
Strategy = Callable[[Candidates], NDArray[np.int64]]

STRATEGIES: Registry[Strategy] = Registry("strategy", ("dualselect.diagnostics.strategies",), plural="strategies")
strategy = STRATEGIES.register


@strategy("task-conditioned")
def task_conditioned(candidates: Candidates) -> NDArray[np.int64]:
    """Return the references that score highest for each batch (DualSelect)."""
    return best(candidates.scores, candidates.top_k)


@strategy("static-conflict")
def static_conflict(candidates: Candidates) -> NDArray[np.int64]:
    """Return the references that score highest for the mean direction of all batches, the same for each batch."""
    return _for_all(candidates, best(candidates.mean_scores[None], candidates.top_k)[0])


@strategy("periodic-random")
def periodic_random(candidates: Candidates) -> NDArray[np.int64]:
    """Return fresh random references for every batch."""
    drawn = [
        candidates.generator("periodic-random", batch).permutation(len(candidates.ids))[: candidates.top_k]
        for batch in candidates.batches
    ]
    return np.stack(drawn)


@strategy("category-uniform")
def category_uniform(candidates: Candidates) -> NDArray[np.int64]:
    """Return references of all categories in turn, the same for each batch."""
    order = candidates.generator("category-uniform").permutation(len(candidates.ids))
    _, labels = np.unique(np.asarray(candidates.categories)[order], return_inverse=True)
    # The turn of a reference: how many of its category come before it.
    by_label = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[by_label], labels[by_label])
    turns = np.empty_like(labels)
    turns[by_label] = np.arange(len(labels)) - firsts
    return _for_all(candidates, order[np.lexsort((labels, turns))][: candidates.top_k])


def best(scores: Array, k: int) -> NDArray[np.int64]:
    """Return the places of the k highest scores of every row, `(B, k)`, highest first and earlier ones of equals."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def _for_all(candidates: Candidates, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.broadcast_to(chosen, (len(candidates.batches), len(chosen)))
