"""The settings of a diagnostic from a YAML file and flags; every field is both a key and a flag."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualselect.diagnostics.preserving import ROLLOUT_CORRECTIONS
from dualselect.diagnostics.strategies import CRITERIA, STRATEGIES
from dualselect.errors import ConfigError, nearest
from dualselect.experiments.arguments import ModelArguments
from dualselect.experiments.settings import Settings, build_settings
from dualselect.methods import SFT
from dualselect.options import documented, option
from dualselect.settings.config_file import read_config
from dualselect.settings.parser import CommandParser, near_or_help, share_of
from dualselect.training import DualSelectConfig

DEFAULT_OUTPUT = "runs/diagnose"
METRICS = ("raw", "adam")
STARTS = ("warm", "fresh")

_STRATEGIES = ["task-conditioned", "static-conflict", "periodic-random", "category-uniform"]
_MODEL = (
    "model_name_or_path",
    "model_revision",
    "dtype",
    "attn_implementation",
    "use_peft",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "load_in_4bit",
    "load_in_8bit",
)
# What a diagnostic shares with a run; the rest of a run's settings do not concern a few steps of warm-up.
_RUN = (
    "output_dir",
    "seed",
    "max_length",
    "completion_only_loss",
    "assistant_only_loss",
    "reference_answer_tokens",
    "chat_template_path",
    "template_date",
    "scan_tokens",
    "bf16",
    "gradient_checkpointing",
    "use_cpu",
    "disable_tqdm",
)


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


_AT_LEAST_ONE = [
    *("task_limit", "references_limit", "probe_limit", "batch_size", "batches", "warmup_steps", "micro_batch_size"),
    *("sketch_size", "top_k", "permutations", "rollout_batches", "rollout_steps", "rollout_samples"),
]


@dataclass(frozen=True)
class DiagnosticSettings:
    """All that a diagnostic is made from.

    Attributes:
        options: What it measures.
        run: The run that warms the model up: model, training settings and the method `sft`.
        folder: Where everything goes.
    """

    options: DiagnosticOptions
    run: Settings
    folder: Path

    @property
    def seed(self) -> int:
        """Seed of all draws."""
        return int(self.run.training.seed)

    @property
    def progress(self) -> bool:
        """Whether to show progress bars."""
        return not self.run.training.disable_tqdm

    def plain(self) -> dict[str, Any]:
        """Return all settings side by side, as the command line takes them."""
        model = {name: getattr(self.run.model, name) for name in _MODEL}
        training = {name: getattr(self.run.training, name) for name in _RUN}
        return asdict(self.options) | model | training | {"output_dir": str(self.folder)}


def parse_settings(argv: Sequence[str], about: str = "") -> DiagnosticSettings:
    """Return the settings that a command line and the file it names give; `--help` prints and exits.

    Raises:
        ConfigError: An unknown, malformed, missing or impossible setting, or an unreadable file.
    """
    parser = CommandParser("diagnose", about, usage="dualselect diagnose --config FILE [--SETTING VALUE ...]")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_settings(DiagnosticOptions, "what is measured")
    parser.add_settings(ModelArguments, "model and LoRA", only=_MODEL)
    parser.add_settings(DualSelectConfig, "passes over the data", only=_RUN)
    given = vars(parser.parse(argv))
    config = given.pop("config")
    values: dict[str, Any] = {}
    for name, entry in ({} if config is None else read_config(config)).items():
        if not parser.knows(name) or name == "config":
            hint = near_or_help(name, [flag.lstrip("-") for flag in parser.flags], f"{parser.prog} --help")
            raise ConfigError(f"{entry.place}: unknown setting '{name}'{hint}")
        values |= parser.parse_value(name, entry)
    return build(values | given)


def build(values: Mapping[str, Any]) -> DiagnosticSettings:
    """Return the settings that plain values give, each in its place.

    Raises:
        ConfigError: Values that cannot be, or a source that is missing.
    """
    options = DiagnosticOptions(**share_of(DiagnosticOptions, values))
    for name in ("task", "references", "probe"):
        if getattr(options, name) is None:
            raise ConfigError(f"there are no {name} data: give --{name}, or `{name}:` in the configuration")
    folder = Path(values.get("output_dir", DEFAULT_OUTPUT))
    shared = {name: values[name] for name in (*_MODEL, *_RUN) if name in values}
    return DiagnosticSettings(options, build_settings(SFT, shared | _warm_up(options, folder), resume=False), folder)


def _warm_up(options: DiagnosticOptions, folder: Path) -> dict[str, Any]:
    size = min(options.micro_batch_size, options.batch_size)
    return {
        "output_dir": str(folder / "warm-up"),
        "max_steps": options.warmup_steps,
        "learning_rate": options.warmup_learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": options.batch_size // size,
        "optim": "adamw_torch",
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
    }


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise ConfigError(f"unknown value '{value}' of {name}{nearest(str(value), choices)}")
