"""DualSelect: references and task samples are selected against each other.

"Two to Tango: Coupled Task-Reference Selection for Safe LLM Fine-tuning", arXiv 2606.09866.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor

from dualselect.errors import ConfigError
from dualselect.gradients import PER_MODULE, Direction, Metric, preconditioned
from dualselect.methods.base import (
    Method,
    Moments,
    Run,
    Scores,
    Selection,
    State,
    check_choice,
    check_positive,
    check_range,
)
from dualselect.methods.corrections import CORRECTIONS
from dualselect.methods.registry import method
from dualselect.methods.selectors import Scorer
from dualselect.options import option
from dualselect.selection import (
    PRESERVATION_LOSSES,
    SCALINGS,
    TRIGGERS,
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

# What the authors' paper and their released code set differently; an option that is given wins over its preset.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"task_token_fraction": 0.9, "reference_fraction": 0.1, "score_scaling": "zscore"},
    "released-code": {"task_top_k": 4, "reference_top_k": 32, "score_scaling": "raw"},
}
SELECTIONS = ("hard", "soft")
REFERENCE_CHOICES = ("conflict", "random", "all")
DIRECTIONS = ("frozen", "fresh")
METRICS = ("raw", "adam", "per_module")
_NEGLIGIBLE_NORM = 1e-12
_ADAM_EPSILON = 1e-8


def _of_presets(name: str) -> str:
    """Return what an option is where it is unset, for its help text."""
    return ", ".join(f"{values[name]} ({preset})" for preset, values in PRESETS.items() if name in values)


@method
@dataclass
class DualSelect(Scorer, Method):
    """Couple two selections: references at risk from the task, and task samples compatible with those references."""

    name: ClassVar[str] = "dualselect"
    pools: ClassVar[tuple[str, ...]] = ("references",)
    stage: ClassVar[str] = "during"
    cost: ClassVar[str] = "1, and a pass over the references at every refresh; 2.3 with a fresh direction at every step"
    fidelity: ClassVar[str] = "faithful; where the paper and its released code differ, presets name both"
    shards: ClassVar[bool] = True

    preset: str = option(
        "paper",
        "Defaults for what the authors' paper and code set differently: 'paper' keeps 90% of the tokens and 10% of "
        "the pool, 'released-code' 4 samples per step and 32 references with raw scores.",
        tuple(PRESETS),
    )
    rho: float = option(0.2, "Weight of the reference direction in the update, g_task + rho * g_ref.")
    selection: str = option("hard", "Hard: the best, equally weighted. Soft: softmax weights.", SELECTIONS)
    task_token_fraction: float | None = option(
        None, f"Share of a step's supervised tokens to keep, in (0, 1]. Unset: {_of_presets('task_token_fraction')}."
    )
    carry_budget: bool = option(
        True, "Take what a step keeps above its token share off the next one's, so that the run keeps the share."
    )
    task_top_k: int | None = option(
        None, f"Samples of a step to keep, instead of a token share. Unset: {_of_presets('task_top_k')}."
    )
    reference_choice: str = option(
        "conflict",
        "How references are chosen at a refresh: those with the highest scores, as many at random, or all of the pool.",
        REFERENCE_CHOICES,
    )
    reference_fraction: float | None = option(
        None, f"Share of the pool chosen at a refresh, in (0, 1]. Unset: {_of_presets('reference_fraction')}."
    )
    reference_top_k: int | None = option(
        None, f"References chosen at a refresh, instead of a share. Unset: {_of_presets('reference_top_k')}."
    )
    reference_candidates: int | None = option(
        None,
        "References scored at a refresh, for large pools: those chosen last time and a random draw of the others, from "
        "every category in proportion. Unset: all.",
    )
    direction: str = option(
        "frozen",
        "Frozen: the reference direction stays as it was at the refresh. Fresh: it is the gradient, at the current "
        "weights, of a draw from the chosen references.",
        DIRECTIONS,
    )
    direction_every: int = option(1, "Updates between two draws of a fresh direction.")
    direction_batch: int = option(8, "References drawn for a fresh direction.")
    mu_task: float = option(1.0, "Weight of the loss in a task sample's score.")
    mu_ref: float = option(1.0, "Weight of the preservation loss in a reference's score.")
    nu: float = option(1.0, "Weight of the cosine in both scores.")
    tau_task: float = option(0.1, "Temperature of soft task weights.")
    tau_ref: float = option(0.1, "Temperature of soft reference weights.")
    score_scaling: str | None = option(
        None,
        "Use loss and cosine as they are, z-scored or ranked over the candidates. Unset: "
        f"{_of_presets('score_scaling')}.",
        SCALINGS,
    )
    score_metric: str = option(
        "raw",
        "What cosines are taken in: the plain inner product, that of Adam's step (divided by the root of its second "
        "moment), or the mean of each module's own cosine.",
        METRICS,
    )
    correction: str = option(
        "additive",
        "How the reference direction changes the task gradient: 'additive' adds rho times it, 'project' first removes "
        "from g_task what opposes it, 'remove' only does that, 'none' leaves g_task as it is.",
        CORRECTIONS,
    )
    refresh: str = option("epoch", "When references are selected anew.", TRIGGERS)
    refresh_every: int = option(50, "Updates between refreshes ('steps'), or between two looks at the drift ('drift').")
    refresh_drift: float = option(
        0.5, "With 'drift': refresh when the task direction's cosine with that of the last refresh is below this."
    )
    task_warmup_steps: int = option(10, "Plain updates at the start, whose mean is the first task direction.")
    preservation_loss: str = option(
        "sft", "Loss of a reference: NLL of its answer, or KL from the starting model on it.", PRESERVATION_LOSSES
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("preset", self.preset, tuple(PRESETS))
        self._complete_from(PRESETS[self.preset])
        for name, choices in (
            ("selection", SELECTIONS),
            ("reference_choice", REFERENCE_CHOICES),
            ("direction", DIRECTIONS),
            ("score_scaling", SCALINGS),
            ("score_metric", METRICS),
            ("correction", CORRECTIONS),
            ("refresh", TRIGGERS),
            ("preservation_loss", PRESERVATION_LOSSES),
        ):
            check_choice(name, getattr(self, name), choices)
        for name in ("rho", "task_warmup_steps"):
            check_range(name, getattr(self, name), 0)
        for name in ("task_token_fraction", "reference_fraction"):
            check_positive(name, getattr(self, name), 1.0)
        for name in ("task_top_k", "reference_top_k", "tau_task", "tau_ref", "direction_every", "direction_batch"):
            check_positive(name, getattr(self, name))
        check_positive("reference_candidates", self.reference_candidates)
        if self.reference_candidates is not None and self.reference_choice != "conflict":
            raise ConfigError(
                f"reference_candidates is {self.reference_candidates} but reference_choice '{self.reference_choice}' "
                "scores no references: leave one of them out"
            )
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

    def _complete_from(self, preset: dict[str, Any]) -> None:
        for share, count in (("task_token_fraction", "task_top_k"), ("reference_fraction", "reference_top_k")):
            given = [name for name in (share, count) if getattr(self, name) is not None]
            if len(given) == 2:
                raise ConfigError(f"{share} and {count} are both set; give one of them")
            if not given:
                setattr(self, share, preset.get(share))
                setattr(self, count, preset.get(count))
        if self.score_scaling is None:
            self.score_scaling = preset["score_scaling"]

    @property
    def needs_start(self) -> bool:
        """Whether the preservation loss compares with the starting weights."""
        return PRESERVATION_LOSSES[self.preservation_loss].needs_start

    def references_to_keep(self, pool_size: int) -> int:
        """Return the number of references to choose, K_ref, for a pool of the given size.

        Raises:
            ConfigError: The pool is smaller than `reference_top_k`, or the candidates are too few to choose from.
        """
        if self.reference_top_k is not None and self.reference_top_k > pool_size:
            raise ConfigError(
                f"reference_top_k is {self.reference_top_k} but the pool has {pool_size} references: lower "
                "reference_top_k or add references"
            )
        keep = self.reference_top_k
        if keep is None:
            assert self.reference_fraction is not None
            keep = ceil(self.reference_fraction * pool_size - 1e-9)
        candidates = self.reference_candidates
        if candidates is not None and keep >= candidates < pool_size:
            name = "reference_fraction" if self.reference_top_k is None else "reference_top_k"
            raise ConfigError(
                f"reference_candidates is {candidates} but {keep} of {pool_size} references are chosen, and those of "
                f"the last refresh are candidates too: raise reference_candidates above {keep}, or lower {name}"
            )
        return keep

    def references_read(self, pool_size: int) -> tuple[int, int]:
        """Return how many references a refresh scores and how many it then differentiates, for a pool of that size."""
        keep = self.references_to_keep(pool_size)
        scored = min(self.reference_candidates or pool_size, pool_size)
        return {"conflict": (scored, keep), "random": (0, keep), "all": (0, pool_size)}[self.reference_choice]

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
        assert self.score_scaling is not None
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
        assert self.score_scaling is not None
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
        assert self.score_scaling is not None
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
