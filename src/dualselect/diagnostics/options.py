"""What a diagnostic measures: its options, each a flag and a key of the YAML file."""

from dataclasses import dataclass
from typing import Any

from dualselect.diagnostics.preserving import ROLLOUT_CORRECTIONS
from dualselect.diagnostics.strategies import CRITERIA, STRATEGIES
from dualselect.errors import ConfigError, nearest
from dualselect.options import documented, option

METRICS = ("raw", "adam")
STARTS = ("warm", "fresh")

_STRATEGIES = ["task-conditioned", "static-conflict", "periodic-random", "category-uniform"]
# Options of whole numbers that are at least one, or unset.
_AT_LEAST_ONE = [
    *("task_limit", "references_limit", "probe_limit", "batch_size", "batches", "warmup_steps", "micro_batch_size"),
    *("sketch_size", "top_k", "permutations", "rollout_batches", "rollout_steps", "rollout_samples"),
]


@documented
@dataclass
class DiagnosticOptions:
    """What a diagnostic measures. A source is a hub id, a file (JSONL, JSON, CSV, Parquet) or a folder of such files.

    Raises:
        ConfigError: A value that cannot be.
    """

    task: str | None = option(None, "Source of the task data.")
    task_split: str = option("train", "Split of the task data, for hub ids.")
    task_limit: int | None = option(None, "Task samples that batches are made of, drawn by the seed; unset for all.")
    references: str | None = option(None, "Source of the references: prompts with safe answers.")
    references_split: str = option("train", "Split of the references, for hub ids.")
    references_limit: int | None = option(4096, "References to choose from, drawn by the seed.")
    probe: str | None = option(
        None, "Source of held-out safety prompts with safe answers, which rollouts are judged by."
    )
    probe_split: str = option("test", "Split of the probe, for hub ids.")
    probe_limit: int | None = option(128, "Prompts of the probe: those of highest risk.")
    exclude: list[str] = option([], "Sources whose prompts are left out of all sets, such as the final evaluation's.")
    exclude_split: str = option("test", "Split of the excluded sources, for hub ids.")
    group_by: str | None = option(None, "Field of the task's records with their group; unset: keywords decide.")
    category_by: str | None = option(
        None, "Field of the references' and the probe's records with their safety category; unset: keywords decide."
    )
    keywords: str | None = option(None, "YAML file of keywords in place of the packaged ones, in the same form.")
    batch_size: int = option(16, "Task samples of a batch, all of one group.")
    batches: int = option(64, "Most batches, spread evenly over the groups.")
    start: str = option(
        "warm",
        "Where gradients are measured: after a short warm-up on the task, or at the 'fresh' LoRA, whose factor A has "
        "no gradient (the authors' code).",
        STARTS,
    )
    warmup_steps: int = option(8, "Optimizer steps of the warm-up.")
    warmup_learning_rate: float = option(5e-4, "Learning rate of the warm-up, constant.")
    micro_batch_size: int = option(8, "Task samples in one pass of the warm-up.")
    sketch_size: int = option(512, "Numbers that a gradient is projected to.")
    metric: str = option(
        "raw",
        "Inner product of gradients: the plain one, or 'adam', preconditioned by the second moments of the warm-up.",
        METRICS,
    )
    strategies: list[str] = option(_STRATEGIES, "Ways to choose references, by name.", STRATEGIES)
    top_k: int = option(32, "References that are chosen for a batch.")
    criterion: str = option("conflict", "What the task-conditioned and static choices look for.", CRITERIA)
    risk_weight: float = option(0.0, "Weight of a reference's risk, in standard deviations, in its score.")
    permutations: int = option(1000, "Random choices and permutations that p-values are made of.")
    rollout_batches: int | None = option(16, "Batches that are rolled out, spread over the groups; unset for all.")
    rollout_steps: int = option(3, "Optimizer steps of a rollout.")
    rollout_samples: int | None = option(
        4, "Task samples, and as many references, that a step of a rollout draws; unset for all of the batch."
    )
    rollout_learning_rate: float = option(1e-4, "Learning rate of a rollout.")
    rollout_max_grad_norm: float = option(1.0, "Largest norm of an update's gradient in a rollout; 0 does not clip.")
    corrections: list[str] = option(
        ["preserve-kl"], "Ways in which a rollout preserves references.", ROLLOUT_CORRECTIONS
    )
    reference_weight: float = option(1.0, "Weight of the references' gradient in a rollout.")

    def __post_init__(self) -> None:
        for name, choices in (("start", STARTS), ("metric", METRICS), ("criterion", CRITERIA)):
            _check_choice(name, getattr(self, name), choices)
        for name, registry in (("strategies", STRATEGIES), ("corrections", ROLLOUT_CORRECTIONS)):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give at least one")
            for value in getattr(self, name):
                _check_choice(name, value, registry)
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; give at least 1")
        if self.batch_size % self.micro_batch_size and self.batch_size > self.micro_batch_size:
            raise ConfigError(
                f"batch_size is {self.batch_size}, not a multiple of micro_batch_size, {self.micro_batch_size}; change "
                "either"
            )
        if self.metric == "adam" and self.start == "fresh":
            raise ConfigError(
                "metric 'adam' needs the second moments of a warm-up; set start to warm, or metric to raw"
            )

    def of(self, *names: str) -> dict[str, Any]:
        """Return some of the options by name."""
        return {name: getattr(self, name) for name in names}


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise ConfigError(f"unknown value '{value}' of {name}{nearest(str(value), choices)}")
