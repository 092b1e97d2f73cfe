"""DualSelect: references and task samples are selected against each other.

"Two to Tango: Coupled Task-Reference Selection for Safe LLM Fine-tuning", arXiv 2606.09866.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from dualselect.errors import ConfigError
from dualselect.gradients import PER_MODULE, Direction, Metric, preconditioned
from dualselect.methods.base import Moments, Run, Scores, Selection, State
from dualselect.methods.corrections import CORRECTIONS
from dualselect.methods.dualselect_options import PRESETS, DualSelectOptions
from dualselect.methods.registry import method
from dualselect.methods.selectors import Scorer
from dualselect.selection import (
    Chosen,
    Retry,
    TokenBudget,
    choose_references,
    draw_candidates,
    hard_top_k,
    measures,
    preservation_loss,
    refresh_trigger,
    score,
    soft,
)
from dualselect.selection.measures import Column

__all__ = ["PRESETS", "DualSelect"]

_NEGLIGIBLE_NORM = 1e-12
_ADAM_EPSILON = 1e-8


@method
@dataclass
class DualSelect(Scorer, DualSelectOptions):
    """Couple two selections: references at risk from the task, and task samples compatible with those references."""

    name: ClassVar[str] = "dualselect"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1, and a pass over the references at every refresh; 2.3 with a fresh direction at every step"
    fidelity: ClassVar[str] = "faithful; where the paper and its released code differ, presets name both"
    shards: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._trigger = refresh_trigger(self.refresh, self.refresh_every, self.refresh_drift)
        self._retry = Retry(self._trigger.period)
        share = self.task_token_fraction
        self._budget = None if share is None else TokenBudget(share, self.carry_budget)
        self.g_ref: Direction | None = None
        self._references: Tensor | None = None  # weights of the references chosen last, over the pool
        self._task_sum: Direction | None = None  # sum of g_task since the last refresh; only its direction matters
        self._task_at_refresh: Direction | None = None
        self._refreshed_at: dict[str, int] | None = None
        self._has_said: set[str] = set()

    def prepare(self, task: Dataset, run: Run) -> Dataset:
        """Check that the pool is large enough."""
        self.references_to_keep(len(run.pool()))
        return task

    def measures(self, run: Run, at_start: Any, moments: Moments | None) -> Sequence[Column]:
        """Return the cosine with the direction of the references at risk, for a score before training.

        Raises:
            ConfigError: The references have no gradient.
        """
        chosen = self._choose(run)
        g_ref = self._gradient(chosen.weights, run)
        problem = chosen.problem or _problem_of(g_ref)
        chosen.done()
        if problem:
            raise ConfigError(f"dualselect: no sample can be scored, since {problem}; change references or their loss")
        metric = PER_MODULE if self.score_metric == "per_module" else None
        return [measures.cosine("dualselect.cosine", g_ref, metric)]

    def score(self, scanned: Mapping[str, Tensor]) -> Tensor:
        """Return nu * cosine - mu_task * loss, scaled over the whole task: the turned score of its task selection."""
        cosine = scanned["dualselect.cosine"]
        return -score(scanned["loss"], cosine, mu=self.mu_task, nu=self.nu, scaling=self.score_scaling)

    def directions(self) -> Mapping[str, Direction]:
        """Return the reference direction, once there is one."""
        return {} if self.g_ref is None else {"reference": self.g_ref}

    def metric(self, run: Run) -> Metric | None:
        """Return the metric of `score_metric`; the plain one until it is available."""
        if self.score_metric == "per_module":
            return PER_MODULE
        if self.score_metric == "adam" and run.step >= self.task_warmup_steps:
            second_moment = run.second_moment()
            if second_moment is not None:
                return preconditioned(second_moment, _ADAM_EPSILON)
            self._say_once(run, "the optimizer has no second moments before its first step: until then cosines are raw")
        return None

    def begin_step(self, run: Run) -> str:
        """Choose the references anew and renew the reference direction, if that is due."""
        if run.step >= self.task_warmup_steps:
            if self._refresh_is_due(run):
                self._refresh(run)
            if self.direction == "fresh" and self._references is not None and self._draw_is_due(run):
                self._draw_direction(run)
        return "task"

    def _refresh_is_due(self, run: Run) -> bool:
        if self._retry.is_pending:
            return self._retry.due(run.step, run.epoch)
        if self._refreshed_at is None:
            return True
        return self._trigger.due(
            steps_since=run.step - self._refreshed_at["step"],
            epochs_since=run.epoch - self._refreshed_at["epoch"],
            cosine=self._drift,
        )

    def _drift(self) -> float:
        if self._task_sum is None or self._task_at_refresh is None:
            return 1.0
        return self._task_sum.cosine(self._task_at_refresh).item()

    def _refresh(self, run: Run) -> None:
        chosen = self._choose(run)
        run.record("references", chosen.of_candidates(run.pool().ids), **chosen.columns)
        g_ref, problem = None, chosen.problem
        if not problem and self.direction == "frozen":
            g_ref = self._gradient(chosen.weights, run)
            problem = _problem_of(g_ref)
        chosen.done()
        if problem:
            self._postpone(run, problem)
            return
        self._retry.succeeded()
        self._refreshed_at = {"step": run.step, "epoch": run.epoch}
        self._task_at_refresh = self._task_sum if self._trigger.compares else None
        self._task_sum = None
        self._references = chosen.weights
        self.g_ref = g_ref if self.direction == "frozen" else self.g_ref
        run.log(refreshes=1.0, **chosen.summary())
        if g_ref is not None:
            run.log(reference_norm=g_ref.norm())

    def _choose(self, run: Run) -> Chosen:
        pool = run.pool()
        keep = self.references_to_keep(len(pool))
        if self.reference_choice == "all":
            return Chosen(torch.full((len(pool),), 1.0 / len(pool)))
        if self.reference_choice == "random":
            return Chosen(pool.draw(keep, run.generator("choice of references")))
        return choose_references(
            pool,
            self._task_sum,
            loss=preservation_loss(self.preservation_loss, run.start),
            keep=keep,
            mu=self.mu_ref,
            nu=self.nu,
            scaling=self.score_scaling,
            tau=self.tau_ref if self.selection == "soft" else None,
            metric=self.metric(run),
            rows=self._candidates(run),
        )

    def _candidates(self, run: Run) -> Tensor | None:
        """Return the rows of the references to score, None for all."""
        if self.reference_candidates is None:
            return None
        last = torch.zeros(0) if self._references is None else self._references
        chosen = last.nonzero().flatten()
        return draw_candidates(run.pool(), self.reference_candidates, chosen, run.generator("candidates"))

    def _postpone(self, run: Run, problem: str) -> None:
        self._retry.failed(run.step, run.epoch)
        meanwhile = "updates are plain until there is one" if self.g_ref is None else "the older one is kept"
        wait = f"{self._retry.wait} update{'s' if self._retry.wait > 1 else ''}"
        run.say(
            f"step {run.step}: the refresh found no reference direction, since {problem}; {meanwhile}, and the next "
            f"attempt follows after {wait}"
        )

    def _gradient(self, weights: Tensor, run: Run) -> Direction:
        return run.pool().gradient(weights, loss=preservation_loss(self.preservation_loss, run.start))

    def _draw_is_due(self, run: Run) -> bool:
        assert self._refreshed_at is not None
        return self.g_ref is None or (run.step - self._refreshed_at["step"]) % self.direction_every == 0

    def _draw_direction(self, run: Run) -> None:
        """Take the gradient of a draw; an update whose draw has no usable gradient is plain."""
        drawn = run.pool().draw(self.direction_batch, run.generator("references"), self._references)
        g_ref = self._gradient(drawn, run)
        problem = _problem_of(g_ref)
        if problem:
            self._say_once(run, f"{problem}: updates are plain until they have one")
        self.g_ref = None if problem else g_ref
        run.log(reference_norm=g_ref.norm())

    def _say_once(self, run: Run, message: str) -> None:
        if message not in self._has_said:
            run.say(message)
        self._has_said.add(message)

    def weights(self, scores: Scores, run: Run) -> Selection:
        """Return the weights of a step's candidates: uniform until there is a reference direction, then by score."""
        if self.g_ref is None:
            return super().weights(scores, run)
        cosine = torch.where(scores.valid, scores.cosine["reference"], torch.nan)
        values = score(scores.loss, cosine, mu=self.mu_task, nu=self.nu, scaling=self.score_scaling)
        if self.selection == "soft":
            weights = soft(values, scores.index, self.tau_task, self.task_top_k)
        elif self.task_top_k is not None:
            weights = hard_top_k(values, scores.index, self.task_top_k)
        else:
            assert self._budget is not None
            weights = self._budget.weights(values, scores.index, scores.tokens)
        return Selection(weights, {"score": values})

    def correct(self, g: Direction, run: Run) -> Direction:
        """Return g_task with the reference direction's correction, and remember g_task for the next refresh."""
        self._task_sum = g.clone() if self._task_sum is None else self._task_sum.axpy(1.0, g)
        if self.g_ref is None:
            return g
        run.log(task_reference_cosine=g.cosine(self.g_ref))
        return CORRECTIONS[self.correction](g, self.g_ref, self.rho)

    def state_dict(self) -> State:
        """Return the directions, the chosen references, and the counters."""
        directions = {
            "reference": self.g_ref,
            "task_sum": self._task_sum,
            "task_at_refresh": self._task_at_refresh,
        }
        return {name: d for name, d in directions.items() if d is not None}, {
            "refreshed_at": self._refreshed_at,
            "retry": asdict(self._retry),
            "references": None if self._references is None else _sparse(self._references),
            "surplus": 0.0 if self._budget is None else self._budget.surplus,
        }

    def load_state_dict(self, directions: dict[str, Direction], values: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.g_ref = directions.get("reference")
        self._task_sum = directions.get("task_sum")
        self._task_at_refresh = directions.get("task_at_refresh")
        self._refreshed_at = values["refreshed_at"]
        self._retry = Retry(**values["retry"])
        self._references = None if values["references"] is None else _dense(**values["references"])
        if self._budget is not None:
            self._budget.surplus = float(values["surplus"])


def _sparse(weights: Tensor) -> dict[str, Any]:
    """Return weights of which most are 0, as JSON has them."""
    rows = weights.nonzero().flatten()
    return {"size": len(weights), "rows": rows.tolist(), "weights": weights[rows].tolist()}


def _dense(size: int, rows: list[int], weights: list[float]) -> Tensor:
    """Return the weights that `_sparse` was given."""
    found = torch.zeros(size)
    found[rows] = torch.tensor(weights)
    return found


def _problem_of(g_ref: Direction) -> str:
    """Return why a reference direction cannot be used, empty if it can. It waits for the device."""
    return "" if g_ref.norm().item() > _NEGLIGIBLE_NORM else "the references have no gradient"
