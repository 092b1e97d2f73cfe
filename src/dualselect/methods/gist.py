"""GIST: train on the samples whose gradients agree with the references' within the space that these span."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dualselect.errors import DataError
from dualselect.gradients import Layout, Losses, PerSampleGradients
from dualselect.methods.base import Moments, Run, check_positive
from dualselect.methods.registry import method
from dualselect.methods.selectors import Selector, highest_share
from dualselect.options import option
from dualselect.selection.measures import Column
from dualselect.selection.scan import digest_of

_CUT = 1e-6  # of the largest eigenvalue; smaller ones are rounding errors
_BLOCK = 2**16  # parameters whose products are taken at once in fp64


@method
@dataclass
class GIST(Selector):
    """Before training, keep the samples whose gradients, seen in the references' main directions, are as theirs.

    "GIST: Targeted Data Selection for Instruction Tuning via Coupled Optimization Geometry", arXiv 2602.18584, ICML
    2026; code: GuanghuiMin/GIST. After a warm-up on a random share of the task, N references have gradients G, (N, P),
    with G G^T = U S^2 U^T; the columns of V = G^T U / S for the `rank` largest S are an orthonormal basis of the space
    that they mostly lie in. A sample's score is the cosine of V^T g with the mean of V^T g over the references.
    """

    name: ClassVar[str] = "gist"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    cost: ClassVar[str] = (
        "1, and once a warm-up, forward and backward passes over the task and the references, and rank numbers a "
        "trained parameter"
    )
    fidelity: ClassVar[str] = (
        "simplified; to the released code, as the paper's equations could not be read: one set of references, where "
        "the highest score over subtasks counts, and a relative cut of small eigenvalues"
    )

    keep_fraction: float = option(0.05, "Share of the samples to keep, in (0, 1].")
    rank: int = option(150, "Most directions that the space may have (k).")
    variance: float | None = option(
        None, "Share of the references' squared norms, in (0, 1], that is enough: fewer directions than `rank` then."
    )
    reference_count: int = option(300, "References, drawn at random, whose gradients span the space; all if fewer.")
    warmup_fraction: float = option(
        0.05, "Share of the task that the model is warmed up on before it is measured; 0 measures it as it starts."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_positive("rank", self.rank)
        check_positive("variance", self.variance, 1.0)
        check_positive("reference_count", self.reference_count)

    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return the cosine within the space, and the norm of the part of the gradient that lies in it."""
        layout, pool = Layout.of(run.params), run.pool("references")
        rows = torch.randperm(len(pool), generator=run.generator("gist"))[: self.reference_count].sort().values
        whole = Column("gradient", "gradient", lambda _, gradients: _flat(gradients, layout), keeps_gradients=True)
        found = pool.subset(rows.tolist()).scan([whole], title="Measuring the references")["gradient"]
        usable = found[found.isfinite().all(1) & found.any(1)]
        if len(usable) == 0:
            raise DataError("gist: no reference has a gradient that is finite and not zero: give other references")
        basis, features = subspace(usable, self.rank, self.variance)
        reader = _Inside(basis.to(pool.device), features.mean(0).to(pool.device), layout)
        return [_Pair("gist", f"gist {digest_of(features)}", reader, keeps_gradients=True)]  # type: ignore[arg-type]

    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return the cosine."""
        return scanned["gist.cosine"]

    def keep(self, score: Tensor, index: Tensor, run: Run) -> Tensor:
        """Return the share of the samples with the highest scores."""
        return highest_share(score, index, self.keep_fraction)


def subspace(gradients: Tensor, rank: int, variance: float | None = None) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis of the space that gradients mostly lie in, and their coordinates in it.

    Args:
        gradients: Shape `(N, P)`, fp32.
        rank: Most vectors of the basis.
        variance: Share of the sum of squared norms at which fewer are enough.

    Returns:
        V, `(P, k)`, and the gradients' products with it, U S, `(N, k)`, the largest S first; fp32.
    """
    gram = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for block in gradients.split(_BLOCK, dim=1):
        gram.addmm_(block.double(), block.double().T)
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(gram))
    count = min(rank, int((values > _CUT * values.max()).sum()))
    if variance is not None:
        share = values.clamp_min(0.0).cumsum(0) / values.clamp_min(0.0).sum()
        count = min(count, int((share < variance - 1e-9).sum()) + 1)
    scale, vectors = values[:count].sqrt(), vectors[:, :count]
    return gradients.T @ (vectors / scale).float(), (vectors * scale).float()


class _Inside:
    """Reads the cosine of gradients with a target within a space, and the norm of their part in it, `(B, 2)`."""

    def __init__(self, basis: Tensor, target: Tensor, layout: Layout) -> None:
        parts = basis.split(layout.sizes)
        self._basis = dict(zip(layout.names, parts, strict=True))
        self._target = normalize(target, dim=0)

    def __call__(self, losses: Losses, gradients: PerSampleGradients) -> Tensor:
        """Return both numbers of a batch."""
        features = torch.zeros(len(losses.loss), len(self._target), device=self._target.device)
        for name, part in self._basis.items():
            features.addmm_(gradients.of_parameter(name).flatten(1), part)
        return torch.stack([normalize(features, dim=1) @ self._target, features.norm(dim=1)], 1)


class _Pair(Column):
    """A measure of two columns."""

    def __call__(self, losses: Losses, gradients: PerSampleGradients | None) -> dict[str, Tensor]:
        """Return both columns of a batch by their names."""
        cosine, norm = self.read(losses, gradients).unbind(1)
        return {"gist.cosine": cosine, "gist.norm": norm}


def _flat(gradients: PerSampleGradients, layout: Layout) -> Tensor:
    """Return every sample's gradient by all parameters, `(B, P)`."""
    return torch.cat([gradients.of_parameter(name).flatten(1) for name in layout.names], 1)
