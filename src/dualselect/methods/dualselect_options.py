"""DualSelect's options: their presets, what goes together, and what follows from them."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from dualselect.errors import ConfigError
from dualselect.methods.base import Method, check_choice, check_positive, check_range
from dualselect.methods.corrections import CORRECTIONS
from dualselect.options import option
from dualselect.selection import PRESERVATION_LOSSES, SCALINGS, TRIGGERS

# What the authors' paper and their released code set, and what our benchmark chose (docs/decisions/0009-defaults.md).
# An option that is given wins over its preset.
_PAPER = {
    "rho": 0.2,
    "direction": "frozen",
    "score_scaling": "zscore",
    "correction": "additive",
    "preservation_loss": "sft",
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": _PAPER | {"task_token_fraction": 0.9, "reference_fraction": 0.1},
    "released-code": _PAPER | {"task_top_k": 4, "reference_top_k": 32, "score_scaling": "raw"},
    "measured": {
        "rho": 0.3,
        "task_token_fraction": 0.75,
        "reference_fraction": 0.25,
        "direction": "fresh",
        "score_scaling": "zscore",
        "correction": "project",
        "preservation_loss": "kl",
    },
}
SELECTIONS = ("hard", "soft")
REFERENCE_CHOICES = ("conflict", "random", "all")
DIRECTIONS = ("frozen", "fresh")
METRICS = ("raw", "adam", "per_module")


def _of_presets(name: str) -> str:
    """Return what an option is where it is unset, for its help text."""
    return ", ".join(f"{values[name]} ({preset})" for preset, values in PRESETS.items() if name in values)


@dataclass
class DualSelectOptions(Method):
    """What DualSelect and its controls can be told."""

    preset: str = option(
        "paper",
        "Values of all options that are 'unset': what the authors' paper says ('paper'), what their code does "
        "('released-code': 4 samples per step, 32 references, raw scores), or what our benchmark chose ('measured': "
        "KL, a fresh direction and projection).",
        tuple(PRESETS),
    )
    rho: float = option(
        None, f"Weight of the reference direction in the update, g_task + rho * g_ref. Unset: {_of_presets('rho')}."
    )
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
        None,
        "Frozen: the reference direction stays as it was at the refresh. Fresh: it is the gradient, at the current "
        f"weights, of a draw from the chosen references. Unset: {_of_presets('direction')}.",
        DIRECTIONS,
    )
    direction_every: int = option(1, "Updates between two draws of a fresh direction.")
    direction_batch: int = option(8, "References drawn for a fresh direction.")
    mu_task: float = option(1.0, "Weight of the loss in a task sample's score.")
    mu_ref: float = option(1.0, "Weight of the preservation loss in a reference's score.")
    nu: float = option(1.0, "Weight of the cosine in both scores.")
    tau_task: float = option(0.1, "Temperature of soft task weights.")
    tau_ref: float = option(0.1, "Temperature of soft reference weights.")
    score_scaling: str = option(
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
        None,
        "How the reference direction changes the task gradient: 'additive' adds rho times it, 'project' first removes "
        "from g_task what opposes it, 'remove' only does that, 'none' leaves g_task as it is. Unset: "
        f"{_of_presets('correction')}.",
        CORRECTIONS,
    )
    refresh: str = option("epoch", "When references are selected anew.", TRIGGERS)
    refresh_every: int = option(50, "Updates between refreshes ('steps'), or between two looks at the drift ('drift').")
    refresh_drift: float = option(
        0.5, "With 'drift': refresh when the task direction's cosine with that of the last refresh is below this."
    )
    task_warmup_steps: int = option(10, "Plain updates at the start, whose mean is the first task direction.")
    preservation_loss: str = option(
        None,
        "Loss of a reference: NLL of its answer (sft), or KL from the starting model on it. Unset: "
        f"{_of_presets('preservation_loss')}.",
        PRESERVATION_LOSSES,
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

    def _complete_from(self, preset: dict[str, Any]) -> None:
        for share, count in (("task_token_fraction", "task_top_k"), ("reference_fraction", "reference_top_k")):
            given = [name for name in (share, count) if getattr(self, name) is not None]
            if len(given) == 2:
                raise ConfigError(f"{share} and {count} are both set; give one of them")
            if not given:
                setattr(self, share, preset.get(share))
                setattr(self, count, preset.get(count))
        for name in _PAPER:
            if getattr(self, name) is None:
                setattr(self, name, preset[name])

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
