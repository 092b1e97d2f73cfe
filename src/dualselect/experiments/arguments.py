"""What a run's settings contain besides those of the trainer and the method: the data and the model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from trl import ModelConfig

from dualselect.devices import computes_bfloat16
from dualselect.errors import ConfigError, nearest
from dualselect.models.default_model import DEFAULT_MODEL
from dualselect.options import documented

LORA, OSF = ADAPTERS = ("lora", "osf")


@documented
@dataclass
class DataArguments:
    """Where the data come from. A source is a hub id, a file (JSONL, JSON, CSV, Parquet) or a folder of such files.

    Raises:
        ConfigError: A pool or an evaluation set is not given as NAME=SOURCE, a name is given twice, or a limit is
            below 1.
    """

    task: str | None = field(default=None, metadata={"help": "Source of the task data."})
    task_split: str = field(default="train", metadata={"help": "Split of the task data, for hub ids."})
    task_limit: int | None = field(default=None, metadata={"help": "Task samples to use, drawn by the seed."})
    task_streaming: bool = field(
        default=False,
        metadata={
            "help": "Read only the start of the task data, as many records as max_steps train on; the rest is not "
            "downloaded from the hub."
        },
    )
    keep: str | None = field(
        default=None,
        metadata={
            "help": "Train on the task samples with the highest scores alone: FILE:SELECTOR, a file that `dualselect "
            "score` wrote and a selector in it.",
            "metavar": "FILE:SELECTOR",
        },
    )
    fraction: float = field(
        default=0.9, metadata={"help": "With keep: share of the supervised tokens of the scored samples, in (0, 1]."}
    )
    references: str | None = field(
        default=None, metadata={"help": "Source of the reference pool: prompts with safe answers."}
    )
    references_split: str = field(default="train", metadata={"help": "Split of the references, for hub ids."})
    references_limit: int | None = field(default=None, metadata={"help": "References to use, drawn by the seed."})
    pools: list[str] | dict[str, str] = field(
        default_factory=list,
        metadata={
            "help": "Further data sets that the method needs as NAME=SOURCE, as harmful=... and utility=...; in YAML "
            "a mapping from names to sources. `dualselect methods` lists the names."
        },
    )
    pools_split: str = field(default="train", metadata={"help": "Split of the pools, for hub ids."})
    pools_limit: int | None = field(default=None, metadata={"help": "Samples of each pool to use, drawn by the seed."})
    evaluation: list[str] | dict[str, str] = field(
        default_factory=list,
        metadata={
            "help": "Held-out sets as NAME=SOURCE, each evaluated apart, as task=... and probe=...; in YAML a mapping "
            "from names to sources."
        },
    )
    evaluation_split: str = field(default="test", metadata={"help": "Split of the evaluation sets, for hub ids."})
    evaluation_limit: int | None = field(
        default=None, metadata={"help": "Samples of each evaluation set to use, drawn by the seed."}
    )

    def __post_init__(self) -> None:
        self.pools = _named("pools", self.pools, ("harmful", "data/harmful.jsonl"))
        self.evaluation = _named("evaluation", self.evaluation, ("task", "data/test.jsonl"))
        for name, option in (("task", "--task"), ("references", "--references")):
            if name in self.pool_sources:
                raise ConfigError(f"pools: '{name}' has a setting of its own; give it as {option}")
        for option in ("task_limit", "references_limit", "pools_limit", "evaluation_limit"):
            limit = getattr(self, option)
            if limit is not None and limit < 1:
                raise ConfigError(f"{option} is {limit}; give at least 1")
        if self.task_streaming and self.task_limit is not None:
            raise ConfigError("task_limit draws from the whole task, which task_streaming does not read: leave one out")

    @property
    def pool_sources(self) -> dict[str, str]:
        """The source of every pool besides the references, by name."""
        return _sources(self.pools)

    @property
    def evaluation_sources(self) -> dict[str, str]:
        """The source of every evaluation set, by name."""
        return _sources(self.evaluation)


def _named(option: str, items: "list[str] | dict[str, str]", example: tuple[str, str]) -> list[str]:
    """Return sets as NAME=SOURCE, however they were given; a ConfigError if a name or source is missing or repeated."""
    if isinstance(items, dict):
        items = [f"{name}={source}" for name, source in items.items()]
    names: set[str] = set()
    for item in items:
        name, equals, source = str(item).partition("=")
        if not (name and equals and source):
            raise ConfigError(f"{option}: '{item}' is not NAME=SOURCE; write for example {'='.join(example)}")
        if name in names:
            raise ConfigError(f"{option}: two sets are called '{name}'; give each its own name")
        names.add(name)
    return items


def _sources(items: Iterable[str]) -> dict[str, str]:
    return {name: source for name, _, source in (item.partition("=") for item in items)}


@documented
@dataclass
class ModelArguments(ModelConfig):
    """TRL's ModelConfig, with LoRA on unless it is turned off.

    Raises:
        ConfigError: An unknown adapter, or an impossible rank.
    """

    model_name_or_path: str = field(
        default=DEFAULT_MODEL,
        metadata={"help": "Model to fine-tune: hub id or local folder.", "aliases": ["--model"]},
    )
    use_peft: bool = field(default=True, metadata={"help": "Train a LoRA. --no_use_peft trains all parameters."})
    adapter: str = field(
        default=LORA,
        metadata={
            "help": "Adapter to train: 'lora', or PEFT's 'osf', which keeps the largest singular directions of every "
            "weight as they are; it goes with methods that leave loss and gradient alone, such as sft.",
            "choices": list(ADAPTERS),
        },
    )
    osf_rank: float | None = field(
        default=None,
        metadata={
            "help": "Singular directions of a weight that OSF keeps: a number, or a share below 1. Unset: half of them."
        },
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Type in which the model is loaded. Unset: with a LoRA the checkpoint's own ('auto'), else "
            "'float32', since small updates would be lost in bfloat16 weights; 'float32' too on a CPU that emulates "
            "bfloat16, which takes ten times as long.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )

    def __post_init__(self) -> None:
        targets: list[str] | None = self.lora_target_modules  # type: ignore[has-type]
        super().__post_init__()
        # TRL makes a list of one a text, and PEFT reads a text as a pattern for a module's whole name.
        if isinstance(targets, list) and len(targets) == 1 and re.fullmatch(r"[\w.]+", targets[0]):
            self.lora_target_modules = targets
        if self.lora_r is not None and self.lora_r < 1:
            raise ConfigError(f"lora_r is {self.lora_r}; give at least 1")
        if self.adapter not in ADAPTERS:
            raise ConfigError(f"unknown adapter '{self.adapter}'{nearest(self.adapter, ADAPTERS)}")
        if self.osf_rank is not None and not (
            0 < self.osf_rank < 1 or (self.osf_rank >= 1 and float(self.osf_rank).is_integer())
        ):
            raise ConfigError(f"osf_rank is {self.osf_rank}; give a whole number from 1, or a share between 0 and 1")
        if self.dtype is None:
            is_native = torch.accelerator.is_available() or computes_bfloat16("cpu")
            self.dtype = "auto" if self.use_peft and is_native else "float32"
