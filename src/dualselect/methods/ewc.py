"""EWC: weights that mattered for earlier data are pulled back to what they were."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dualselect.gradients import Direction, Losses, Parameters, PerSampleGradients
from dualselect.methods.base import Method, Run, State, check_choice, check_range
from dualselect.methods.registry import method
from dualselect.options import option
from dualselect.selection.measures import Column

FISHERS = ("sample", "batch")


@method
@dataclass
class EWC(Method):
    """Minimise loss + strength/2 * sum_k F_k (w_k - w0_k)^2, with the Fisher information F of earlier data.

    "Overcoming catastrophic forgetting in neural networks", arXiv 1612.00796, eq. 3. F is the empirical one: the mean
    over the pool `references` of the squared gradient of the log-likelihood of each given answer, at the weights w0
    that the run starts with. `batch` squares the gradient of every batch's mean loss instead and sums over batches, as
    code for language models often does; it is smaller by up to the batch size, so its strengths are larger. In a fresh
    LoRA (B = 0) the Fisher information of A is zero.
    """

    name: ClassVar[str] = "ewc"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1, and one forward and backward pass over the pool"
    fidelity: ClassVar[str] = "faithful; the empirical Fisher information of given answers"

    strength: float = option(1.0, "Lambda, the weight of the penalty; its scale depends on that of `fisher`.")
    fisher: str = option("sample", "What is squared: each sample's gradient, or that of a batch's mean loss.", FISHERS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("strength", self.strength, 0.0)
        check_choice("fisher", self.fisher, FISHERS)
        self._start: Direction | None = None
        self._fisher: Direction | None = None

    def begin_step(self, run: Run) -> str:
        """Measure the Fisher information before the first step."""
        if self._fisher is None and self.strength > 0:
            self._start = Direction.of(run.params)
            self._fisher = fisher_information(run, self.fisher)
            mean = float(self._fisher.vector.mean())
            run.say(f"ewc: strength times the mean Fisher information is {self.strength * mean:.3g}")
        return "task"

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the gradient with that of the penalty: strength * F (w - w0)."""
        if self._fisher is None or self._start is None:
            return g
        drift = Direction.of(run.params).axpy(-1.0, self._start)
        pull = drift.clone().mul_(self._fisher)
        run.log(ewc_penalty=0.5 * self.strength * pull.dot(drift), drift=drift.norm())
        return g.clone().axpy(self.strength, pull)

    def state_dict(self) -> State:
        """Return the Fisher information and the weights at which it was measured."""
        if self._fisher is None or self._start is None:
            return {}, {}
        return {"fisher": self._fisher, "start": self._start}, {}

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._fisher, self._start = directions.get("fisher"), directions.get("start")


def fisher_information(run: Run, kind: str = "sample") -> Direction:
    """Return the diagonal of the empirical Fisher information on the pool `references`, over all processes.

    Args:
        run: The run.
        kind: `sample` for the mean of the samples' squared gradients, `batch` for the sum of those of batches.
    """
    squares = _Squares(run.params, kind)
    column = Column("squares", f"fisher {kind}", squares.observe, keeps_gradients=True)
    run.pool().scan([column], title="Fisher information")
    total = squares.total.all_reduce()
    return total.scale(1.0 / len(run.pool())) if kind == "sample" else total


class _Squares:
    """Sums squared gradients over the batches of a scan."""

    def __init__(self, params: Parameters, kind: str) -> None:
        self.total = Direction.zeros(params)
        self._kind = kind

    def observe(self, losses: Losses, gradients: PerSampleGradients) -> Tensor:
        """Add a batch, and return its losses as the scan's column; samples that are not finite count as zero."""
        finite = torch.isfinite(losses.loss) & torch.isfinite(gradients.norm())
        # The loss is a mean over an answer's tokens, its log-likelihood a sum.
        scale = torch.where(finite, losses.tokens.float(), 0.0)
        if self._kind == "batch":
            rows = (torch.where(finite, 1.0, 0.0) / finite.sum().clamp_min(1))[None]
        else:
            rows = torch.diag(scale)
        found = Direction(self.total.layout, torch.zeros_like(self.total.vector))
        for row in rows:
            found.vector.addcmul_(*[gradients.weighted_sum(row).vector] * 2)
        self.total.axpy(1.0, found)
        return losses.loss
