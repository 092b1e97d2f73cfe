"""DualSelect: references and task samples are selected against each other.

"Two to Tango: Coupled Task-Reference Selection for Safe LLM Fine-tuning", arXiv 2606.09866.
"""

from dataclasses import dataclass, field
from math import ceil
from typing import Any, ClassVar

import torch

from dualselect.errors import ConfigError
from dualselect.gradients import Direction
from dualselect.methods.base import Method, Run, Scores, Selection, check_choice, check_positive, check_range
from dualselect.methods.corrections import CORRECTIONS, corrected
from dualselect.selection import (
    PRESERVATION_LOSSES,
    SCALINGS,
    TRIGGERS,
    RefreshTrigger,
    TokenBudget,
    hard_top_k,
    score,
    soft,
)

# What the authors' paper and their released code set differently; an option that is given wins over its preset.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"task_token_fraction": 0.9, "reference_fraction": 0.1, "score_scaling": "zscore"},
    "released-code": {"task_top_k": 4, "reference_top_k": 32, "score_scaling": "raw"},
}
_NEGLIGIBLE_NORM = 1e-12


def _option(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text} | ({"choices": list(choices)} if choices else {}))


@dataclass
class DualSelect(Method):
    """Couple two selections: references at risk from the task, and task samples compatible with those references."""

    name: ClassVar[str] = "dualselect"
    needs_references: ClassVar[bool] = True

    preset: str = _option(
        "paper",
        "Defaults for what the authors' paper and code set differently: 'paper' keeps 90% of the tokens and 10% of "
        "the pool, 'released-code' 4 samples a batch and 32 references with raw scores.",
        tuple(PRESETS),
    )
    rho: float = _option(0.2, "Weight of the reference direction in the update, g_task + rho * g_ref.")
    selection: str = _option("hard", "Hard: the best, equally weighted. Soft: softmax weights.", ("hard", "soft"))
    task_token_fraction: float | None = _option(
        None, "Share of the supervised tokens to keep, in (0, 1]. Unset: the preset's."
    )
    carry_budget: bool = _option(
        True, "Take what a batch keeps above its token share off the next one's, so that the run keeps the share."
    )
    task_top_k: int | None = _option(None, "Samples of a batch to keep, instead of a token share. Unset: the preset's.")
    reference_fraction: float | None = _option(
        None, "Share of the pool chosen at a refresh, in (0, 1]. Unset: the preset's."
    )
    reference_top_k: int | None = _option(None, "References chosen at a refresh, instead of a share.")
    mu_task: float = _option(1.0, "Weight of the loss in a task sample's score.")
    mu_ref: float = _option(1.0, "Weight of the preservation loss in a reference's score.")
    nu: float = _option(1.0, "Weight of the cosine in both scores.")
    tau_task: float = _option(0.1, "Temperature of soft task weights.")
    tau_ref: float = _option(0.1, "Temperature of soft reference weights.")
    score_scaling: str | None = _option(
        None, "Use loss and cosine as they are, z-scored or ranked over the candidates. Unset: the preset's.", SCALINGS
    )
    correction: str = _option("additive", "How the reference direction changes the task gradient.", CORRECTIONS)
    refresh: str = _option("epoch", "When references are selected anew.", TRIGGERS)
    refresh_every: int = _option(50, "Updates between refreshes ('steps'), or the fewest between them ('drift').")
    refresh_drift: float = _option(
        0.5, "With 'drift': refresh when the task direction's cosine with that of the last refresh is below this."
    )
    task_warmup_steps: int = _option(10, "Plain updates at the start, whose mean is the first task direction.")
    preservation_loss: str = _option(
        "sft", "Loss of a reference: NLL of its answer, or KL from the starting model on it.", PRESERVATION_LOSSES
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("preset", self.preset, tuple(PRESETS))
        self._complete_from(PRESETS[self.preset])
        for option, choices in (
            ("selection", ("hard", "soft")),
            ("score_scaling", SCALINGS),
            ("correction", CORRECTIONS),
            ("preservation_loss", PRESERVATION_LOSSES),
        ):
            check_choice(option, getattr(self, option), choices)
        for option in ("rho", "task_warmup_steps"):
            check_range(option, getattr(self, option), 0)
        for option in ("task_token_fraction", "reference_fraction"):
            check_positive(option, getattr(self, option), 1.0)
        for option in ("task_top_k", "reference_top_k", "tau_task", "tau_ref"):
            check_positive(option, getattr(self, option))
        self._trigger = RefreshTrigger(self.refresh, self.refresh_every, self.refresh_drift)
        share = self.task_token_fraction
        self._budget = None if share is None else TokenBudget(share, self.carry_budget)
        self._task_sum: Direction | None = None  # sum of g_task since the last refresh; only its direction matters
        self._task_at_refresh: Direction | None = None
        self._refreshed_at: dict[str, int] | None = None

    def _complete_from(self, preset: dict[str, Any]) -> None:
        for share, count in (("task_token_fraction", "task_top_k"), ("reference_fraction", "reference_top_k")):
            given = [option for option in (share, count) if getattr(self, option) is not None]
            if len(given) == 2:
                raise ConfigError(f"{share} and {count} are both set; give one of them")
            if not given:
                setattr(self, share, preset.get(share))
                setattr(self, count, preset.get(count))
        if self.score_scaling is None:
            self.score_scaling = preset["score_scaling"]

    def references_to_keep(self, pool_size: int) -> int:
        """Return K_ref for a pool of that size.

        Raises:
            ConfigError: The pool is smaller than `reference_top_k`.
        """
        if self.reference_top_k is None:
            assert self.reference_fraction is not None
            return ceil(self.reference_fraction * pool_size - 1e-9)
        if self.reference_top_k > pool_size:
            raise ConfigError(
                f"reference_top_k is {self.reference_top_k} but the pool holds {pool_size} references: lower "
                "reference_top_k, give reference_fraction instead, or add references"
            )
        return self.reference_top_k

    def prepare(self, run: Run) -> None:
        """Check the pool's size."""
        self.references_to_keep(len(run.references))

    def before_step(self, run: Run) -> None:
        """Refresh the references if that is due."""
        if run.step >= self.task_warmup_steps and self._refresh_is_due(run):
            self._refresh(run)

    def _refresh_is_due(self, run: Run) -> bool:
        if self.direction is None or self._refreshed_at is None:
            return True
        cosine = None
        if self._trigger.kind == "drift" and self._task_sum is not None and self._task_at_refresh is not None:
            cosine = self._task_sum.cosine(self._task_at_refresh).item()
        return self._trigger.due(
            steps_since=run.step - self._refreshed_at["step"],
            epochs_since=run.epoch - self._refreshed_at["epoch"],
            cosine=cosine,
        )

    def _refresh(self, run: Run) -> None:
        pool, task_direction = run.references, self._task_sum
        measured = pool.score(task_direction)
        assert self.score_scaling is not None
        scores = score(measured.loss, measured.cosine, mu=self.mu_ref, nu=self.nu, scaling=self.score_scaling)
        index, keep = torch.arange(len(pool)), self.references_to_keep(len(pool))
        if self.selection == "hard":
            weights = hard_top_k(-scores, index, keep)
        else:
            weights = soft(-scores, index, self.tau_ref, keep)
        weights = weights / weights.sum().clamp_min(1e-38)
        run.record_references({"loss": measured.loss, "cosine": measured.cosine, "score": scores, "weight": weights})
        g_ref = pool.gradient(weights)
        if not g_ref.norm().item() > _NEGLIGIBLE_NORM:
            # At the starting weights the KL and its gradient are zero: there is no direction to take cosines with.
            run.say(f"step {run.step}: the references have no gradient yet, so this step is a plain one")
            self.direction = None
            return
        self.direction = g_ref
        self._refreshed_at = {"step": run.step, "epoch": run.epoch}
        self._task_at_refresh = task_direction if self._trigger.kind == "drift" else None
        self._task_sum = None
        chosen = weights > 0
        run.log(
            refreshes=1.0,
            reference_norm=g_ref.norm(),
            reference_loss=measured.loss[chosen].mean(),
            reference_conflict=-measured.cosine[chosen].mean(),
            pool_loss=measured.loss.nanmean(),
            pool_conflict=-measured.cosine.nanmean(),
        )

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return the weights of a batch: uniform until there is a reference direction, then by score."""
        if self.direction is None:
            return super().weights(scores, run)
        assert self.score_scaling is not None
        cosine = torch.where(scores.valid, scores.cosine, torch.nan)
        values = score(scores.loss, cosine, mu=self.mu_task, nu=self.nu, scaling=self.score_scaling)
        if self.selection == "soft":
            weights = soft(values, scores.index, self.tau_task, self.task_top_k)
        elif self.task_top_k is not None:
            weights = hard_top_k(values, scores.index, self.task_top_k)
        else:
            assert self._budget is not None
            weights = self._budget.weights(values, scores.index, scores.tokens)
        return Selection(weights, values)

    def correct(self, g_task: Direction, run: Run) -> Direction:
        """Return g_task with the reference direction's correction, and remember g_task for the next refresh."""
        if self._task_sum is None:
            self._task_sum = g_task.clone()
        else:
            self._task_sum.axpy(1.0, g_task)
        if self.direction is None:
            return g_task
        run.log(task_reference_cosine=g_task.cosine(self.direction))
        return corrected(g_task, self.direction, correction=self.correction, rho=self.rho)

    def state_dict(self) -> tuple[dict[str, Direction], dict[str, Any]]:
        """Return the reference direction, the running task direction, the refresh counters and the surplus."""
        directions = {
            "reference": self.direction,
            "task_sum": self._task_sum,
            "task_at_refresh": self._task_at_refresh,
        }
        return {name: d for name, d in directions.items() if d is not None}, {
            "refreshed_at": self._refreshed_at,
            "surplus": 0.0 if self._budget is None else float(self._budget.surplus),
        }

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.direction = directions.get("reference")
        self._task_sum = directions.get("task_sum")
        self._task_at_refresh = directions.get("task_at_refresh")
        self._refreshed_at = values["refreshed_at"]
        if self._budget is not None:
            self._budget.surplus = float(values["surplus"])
