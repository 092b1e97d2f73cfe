"""Lisa: alternate between safe data and the task, and stay near where the other phase ended."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dualselect.errors import ConfigError
from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, State, check_positive, check_range
from dualselect.methods.registry import method
from dualselect.options import option


@method
@dataclass
class Lisa(Method):
    """Alternate between steps on safe data and steps on the task, each phase held near the end of the other.

    "Lisa: Lazy Safety Alignment for Large Language Models against Harmful Fine-tuning Attack", arXiv 2405.18641. Every
    step minimises loss(w) + rho/2 ||w - anchor||^2; the anchor is what the other phase left, which is where this
    phase began, so that one snapshot serves both. The run's number of steps stays the same: the task gets
    finetune_steps of every alignment_steps + finetune_steps.
    """

    name: ClassVar[str] = "lisa"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1"
    fidelity: ClassVar[str] = "faithful; phases count optimizer steps, where the released code counts micro-batches"
    shards: ClassVar[bool] = True

    alignment_steps: int = option(100, "Optimizer steps of a phase on the references (K1); a run begins with one.")
    finetune_steps: int = option(900, "Optimizer steps of a phase on the task (K2).")
    rho: float = option(1.0, "Strength of the pull towards the weights that the other phase ended with.")
    proximal_start: float = option(0.1, "Share of all steps before the pull begins; earlier it would slow the task.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("alignment_steps", self.alignment_steps, 0)
        check_positive("finetune_steps", self.finetune_steps)
        check_range("rho", self.rho, 0.0)
        check_range("proximal_start", self.proximal_start, 0.0, 1.0)
        self._anchor: Direction | None = None

    def begin_step(self, run: Run) -> str:
        """Return whose batches the step takes; where a phase begins, remember the weights."""
        if 0 < run.total_steps <= self.alignment_steps:
            raise ConfigError(
                f"alignment_steps is {self.alignment_steps} but the run has {run.total_steps} optimizer steps, so none "
                "would train on the task: lower alignment_steps or train longer"
            )
        # The clock is the run's own step count, which a resumed run continues.
        place = run.step % (self.alignment_steps + self.finetune_steps)
        switches = self.alignment_steps > 0 and place in (0, self.alignment_steps)
        if self.rho > 0 and (switches or self._anchor is None):
            self._anchor = Direction.of(run.params)
        return "references" if place < self.alignment_steps else "task"

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return the gradient with that of rho/2 ||w - anchor||^2."""
        if self._anchor is None or run.step < self.proximal_start * run.total_steps:
            return g
        drift = Direction.of(run.params).axpy(-1.0, self._anchor)
        run.log(drift=drift.norm())
        return g.clone().axpy(self.rho, drift)

    def state_dict(self) -> State:
        """Return the anchor."""
        return {} if self._anchor is None else {"anchor": self._anchor}, {}

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._anchor = directions.get("anchor")
