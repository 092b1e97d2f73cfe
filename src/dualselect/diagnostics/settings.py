"""The settings of a diagnostic from a YAML file and flags; every field is both a key and a flag."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualselect.diagnostics.options import DiagnosticOptions
from dualselect.errors import ConfigError
from dualselect.experiments.arguments import ModelArguments
from dualselect.experiments.run_flags import MODEL_SETTINGS
from dualselect.experiments.settings import Settings, build_settings
from dualselect.methods import SFT
from dualselect.settings.config_file import read_config
from dualselect.settings.parser import CommandParser, near_or_help, share_of
from dualselect.training import DualSelectConfig

DEFAULT_OUTPUT = "runs/diagnose"
_MODEL = (*MODEL_SETTINGS, "load_in_4bit", "load_in_8bit")
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
    folder = Path(values.get("output_dir") or DEFAULT_OUTPUT)
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
