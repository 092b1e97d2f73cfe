"""What a run's settings hold besides those of the trainer and the method: the data and the model."""

from dataclasses import dataclass, field

from trl import ModelConfig

from dualselect.errors import ConfigError
from dualselect.quickstart.settings import DEFAULT_MODEL


@dataclass
class DataArguments:
    """Where the data come from. A source is a hub id, a file (JSONL, JSON, CSV, Parquet) or a folder of such files.

    Raises:
        ConfigError: An evaluation set is not given as NAME=SOURCE, a name stands twice, or a limit is below 1.
    """

    task: str | None = field(default=None, metadata={"help": "Source of the task data."})
    task_split: str = field(default="train", metadata={"help": "Split of the task data, for hub ids."})
    task_limit: int | None = field(default=None, metadata={"help": "Task samples to use, drawn by the seed."})
    references: str | None = field(
        default=None, metadata={"help": "Source of the reference pool: prompts with safe answers."}
    )
    references_split: str = field(default="train", metadata={"help": "Split of the references, for hub ids."})
    references_limit: int | None = field(default=None, metadata={"help": "References to use, drawn by the seed."})
    evaluation: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Held-out sets as NAME=SOURCE, each evaluated apart, say task=... and probe=...; in YAML a mapping "
            "from names to sources."
        },
    )
    evaluation_split: str = field(default="test", metadata={"help": "Split of the evaluation sets, for hub ids."})
    evaluation_limit: int | None = field(
        default=None, metadata={"help": "Samples of each evaluation set to use, drawn by the seed."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.evaluation, dict):
            self.evaluation = [f"{name}={source}" for name, source in self.evaluation.items()]
        names: set[str] = set()
        for item in self.evaluation:
            name, equals, source = str(item).partition("=")
            if not (name and equals and source):
                raise ConfigError(f"evaluation: '{item}' is not NAME=SOURCE; write for example task=data/test.jsonl")
            if name in names:
                raise ConfigError(f"evaluation: two sets are called '{name}'; give each its own name")
            names.add(name)
        for option in ("task_limit", "references_limit", "evaluation_limit"):
            limit = getattr(self, option)
            if limit is not None and limit < 1:
                raise ConfigError(f"{option} is {limit}; give at least 1")

    @property
    def evaluation_sources(self) -> dict[str, str]:
        """The source of every evaluation set, by name."""
        return {name: source for name, _, source in (item.partition("=") for item in self.evaluation)}


@dataclass
class ModelArguments(ModelConfig):
    """TRL's ModelConfig, with LoRA on unless it is turned off."""

    model_name_or_path: str = field(
        default=DEFAULT_MODEL,
        metadata={"help": "Model to fine-tune: hub id or local folder.", "aliases": ["--model"]},
    )
    use_peft: bool = field(default=True, metadata={"help": "Train a LoRA. --no_use_peft trains all parameters."})
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Type that the model is loaded in. Unset: with a LoRA the checkpoint's own ('auto'), else "
            "'float32', since small updates would be lost in bfloat16 weights.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype is None:
            self.dtype = "auto" if self.use_peft else "float32"
