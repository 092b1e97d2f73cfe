"""LESS: train on the samples whose Adam step lowers the loss of a few examples of what is wanted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dualselect.gradients import Dense, Layout, Losses, PerSampleGradients, Sketch
from dualselect.methods.base import Moments, Run, check_positive
from dualselect.methods.registry import method
from dualselect.methods.selectors import Selector, highest_share
from dualselect.options import option
from dualselect.selection import measures
from dualselect.selection.measures import Column
from dualselect.selection.scan import digest_of

_BETAS = (0.9, 0.999)  # of the released code, and of Adam by default
_EPSILON = 1e-8
_SEED = 0  # of the projection, which has to be one for task and examples


@method
@dataclass
class LESS(Selector):
    """Before training, keep the samples that influence the loss on the references most.

    "LESS: Selecting Influential Data for Targeted Instruction Tuning", arXiv 2402.04333, ICML 2024. After a warm-up on
    a random share of the task, a sample's gradient g is turned into the step that Adam would make with it,
    (beta1 m + (1 - beta1) g) / sqrt(beta2 v + (1 - beta2) g^2 + eps); a reference's is left as it is. Both are
    projected to `sketch_size` numbers at random and normalised; the score is the mean inner product with the
    references. Without moments of Adam's, as under another optimizer or without a warm-up, a sample's gradient is left
    as it is too, which is the influence under plain SGD.
    """

    name: ClassVar[str] = "less"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    cost: ClassVar[str] = "1, and once a warm-up and forward and backward passes over the task and the references"
    fidelity: ClassVar[str] = "simplified; one checkpoint, at the end of the warm-up, and one set of examples"

    keep_fraction: float = option(0.05, "Share of the samples to keep, in (0, 1].")
    sketch_size: int = option(8192, "Numbers that a gradient is projected to.")
    warmup_fraction: float = option(
        0.05, "Share of the task that the model is warmed up on before it is measured; 0 measures it as it starts."
    )
    warmup_epochs: float = option(4.0, "Epochs of the warm-up.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("keep_fraction", self.keep_fraction, 1.0)
        check_positive("sketch_size", self.sketch_size)

    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return the mean inner product with the references, which are measured here."""
        layout = Layout.of(run.params)
        size = min(self.sketch_size, layout.size)  # a projection to as many numbers as there are is a rotation
        projection = Sketch(layout, size, _SEED, run.pool("references").device)
        if moments is None:
            run.say("less: Adam has no moments here, so gradients are compared as they are, as under plain SGD")
        reader = Influence(projection, moments, self._target(run, projection))
        return [Column("less.influence", f"less {reader.key}", reader, keeps_gradients=True)]

    def _target(self, run: Run, projection: Sketch) -> Tensor:
        """Return the mean of the references' normalised sketches, `(k,)`."""
        pool = run.pool("references")
        found = pool.scan([measures.sketch(projection)], title="Measuring the references", resumable=True)
        target = torch.nn.functional.normalize(found["sketch"], dim=1).nanmean(0).to(pool.device)
        found.done()
        return target

    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return the influence."""
        return scanned["less.influence"]

    def keep(self, score: Tensor, index: Tensor, run: Run) -> Tensor:
        """Return the share of the samples with the highest scores."""
        return highest_share(score, index, self.keep_fraction)


class Influence:
    """Reads the inner product of the normalised sketches of samples' steps with a target.

    Args:
        projection: The random projection to k numbers.
        moments: Adam's moments, for Adam's steps; None for those of plain SGD, which are the gradients.
        target: What the products are taken with, `(k,)`.
        betas: Adam's decay rates.
        epsilon: Adam's epsilon, which the released code adds below the root.
    """

    def __init__(
        self,
        projection: Sketch,
        moments: Moments | None,
        target: Tensor,
        betas: tuple[float, float] = _BETAS,
        epsilon: float = _EPSILON,
    ) -> None:
        self._projection, self._target = projection, target
        self._moments = [part.views() for part in moments or ()]
        self._betas, self._epsilon = betas, epsilon
        digests = [digest_of(part) for part in (projection, *(moments or ()), target)]
        self.key = " ".join([*digests, str(betas), str(epsilon)])

    def __call__(self, losses: Losses, gradients: PerSampleGradients) -> Tensor:
        """Return the products of a batch, `(B,)`."""
        return torch.nn.functional.normalize(self._sketches(losses, gradients), dim=1) @ self._target

    def _sketches(self, losses: Losses, gradients: PerSampleGradients) -> Tensor:
        if not self._moments:
            return gradients.sketch(self._projection)
        out = torch.zeros(len(losses.loss), self._projection.size, device=self._target.device)
        for name in self._moments[0]:
            self._projection.add_term(out, name, Dense(self.step(name, gradients.of_parameter(name))))
        return out

    def step(self, name: str, gradient: Tensor) -> Tensor:
        """Return Adam's step, without bias correction, with gradients of one parameter, `(B, *shape)`."""
        (beta1, beta2), (first, second) = self._betas, (part[name] for part in self._moments)
        mean = beta1 * first + (1 - beta1) * gradient
        return mean * (beta2 * second + (1 - beta2) * gradient.square() + self._epsilon).rsqrt()
