"""What a stream is made from: its tasks in order, the memory, and one trial for every method and seed."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dualselect import methods
from dualselect.data import REFERENCES
from dualselect.errors import ConfigError
from dualselect.experiments.request import MethodChoice
from dualselect.experiments.settings import Settings, options_of
from dualselect.methods import SFT
from dualselect.options import documented, option

POLICIES = ("reservoir", "conflict")
SAFETY = "safety"


@documented
@dataclass(frozen=True)
class MemorySettings:
    """What is kept of earlier tasks and of safety.

    Raises:
        ConfigError: An unknown policy, or a number below 0.
    """

    size: int = option(64, "Samples kept of all earlier tasks together; 0 keeps none.")
    policy: str = option(
        "reservoir",
        "Which samples are kept: 'reservoir' gives every one that was trained on the same chance, 'conflict' keeps "
        "those whose gradients oppose the next task's most.",
        POLICIES,
    )
    safety: int = option(32, "Safe answers, drawn by the seed from the source `safety`.")

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"memory: policy is '{self.policy}'; choose {' or '.join(POLICIES)}")
        for name in ("size", "safety"):
            if getattr(self, name) < 0:
                raise ConfigError(f"memory: {name} is {getattr(self, name)}; give at least 0")


@dataclass(frozen=True)
class Task:
    """A task of the stream.

    Attributes:
        name: Its name.
        task: Source of its training data, as the user gave it.
        test: Source of its test data, as the user gave it.
        plain: Whether it is learned by plain fine-tuning under every method: does what they did before last?
        source: What `train` reads.
        suite: What `EvaluationSettings` takes for its test.
        metric: Name of the metric that is its score.
        test_hash: Hash of the test's samples.
    """

    name: str
    task: str
    test: str
    plain: bool = False
    source: str = ""
    suite: str = ""
    metric: str = ""
    test_hash: str = ""


#: Makes settings of what is particular to a run: the choice of a method, and settings that win over all others.
Build = Callable[[MethodChoice, dict[str, Any]], Settings]


@dataclass(frozen=True)
class Plan:
    """All that a stream is made from.

    Attributes:
        folder: Folder of the stream.
        tasks: Tasks in their order; `continual.tasks.prepared` fills in what is made of their sources.
        memory: What is kept of earlier tasks and of safety.
        safety: Source of safe answers; None for none.
        neutral: File of neutral text; None for none.
        singles: Whether every task is also learned alone, which forward transfer is taken against.
        keep_models: Whether the model after the last stage is kept.
        methods: Methods by label.
        seeds: Seeds of training.
        baseline: Label that the others are compared with.
        evaluation: Fields of `EvaluationSettings` for the suites besides the tasks.
        build: Makes the settings of a run.
    """

    folder: Path
    tasks: tuple[Task, ...]
    memory: MemorySettings
    safety: str | None
    neutral: str | None
    singles: bool
    keep_models: bool
    methods: dict[str, MethodChoice]
    seeds: list[int]
    baseline: str
    evaluation: dict[str, Any]
    build: Build

    @property
    def trials(self) -> list["Trial"]:
        """One for every method and seed, in the order in which they run."""
        return [Trial(self, label, seed) for seed in self.seeds for label in self.methods]

    @cached_property
    def first(self) -> Settings:
        """The settings of a first run, for what all runs share: the model, and how the tasks are drawn."""
        return self.build(next(iter(self.methods.values())), {"task": self.tasks[0].task})

    @property
    def base(self) -> str:
        """The model that the stream begins with."""
        return self.first.model.model_name_or_path


@dataclass(frozen=True)
class Trial:
    """A method under a seed: one way through the stream."""

    plan: Plan
    label: str
    seed: int

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return f"{self.label}:{self.seed}"

    @property
    def folder(self) -> Path:
        """The folder of its stages."""
        return self.plan.folder / "cells" / f"{self.label}-seed{self.seed}"

    @property
    def models(self) -> list[Path]:
        """Folders of merged models; there is one at a time."""
        return sorted(self.folder.glob("after-*"))

    @property
    def stages(self) -> list["Stage"]:
        """The stages in their order."""
        return [Stage(self, number) for number in range(1, len(self.plan.tasks) + 1)]

    @property
    def singles(self) -> list["Stage"]:
        """The tasks learned alone; the first stage of the stream is one already."""
        numbers = range(2, len(self.plan.tasks) + 1) if self.plan.singles else ()
        return [Stage(self, number, is_single=True) for number in numbers]


@dataclass(frozen=True)
class Stage:
    """A task of the stream under a method and a seed: one training run.

    Attributes:
        trial: Method and seed.
        number: Place of the task in the stream, from 1.
        is_single: Whether the task is learned alone, from the start of the stream.
    """

    trial: Trial
    number: int
    is_single: bool = False

    @property
    def plan(self) -> Plan:
        """What the stream is made from."""
        return self.trial.plan

    @property
    def task(self) -> Task:
        """The task."""
        return self.plan.tasks[self.number - 1]

    @property
    def folder(self) -> Path:
        """The run folder."""
        parent = self.trial.folder / "singles" if self.is_single else self.trial.folder
        return parent / f"{self.number}-{self.task.name}"

    @property
    def model(self) -> Path:
        """Where the model with the adapters up to this stage's lies; its name says so where others refer to it."""
        return self.trial.folder / f"after-{self.folder.name}"

    @property
    def earlier(self) -> list["Stage"]:
        """The stages before this one; none for a task that is learned alone."""
        return [] if self.is_single else self.trial.stages[: self.number - 1]

    @property
    def has_memory(self) -> bool:
        """Whether there is anything to keep of what came before."""
        of_tasks = bool(self.earlier) and self.plan.memory.size > 0
        return of_tasks or (self.plan.safety is not None and self.plan.memory.safety > 0)

    @property
    def choice(self) -> MethodChoice:
        """The method; plain fine-tuning where the task asks for it, or the method needs a memory and there is none."""
        asked = self.plan.methods[self.trial.label]
        if not self.task.plain and (self.has_memory or REFERENCES not in methods.get(asked.name).pools):
            return asked
        own = options_of(asked.name) - {option.name for option in fields(SFT)}
        return replace(
            asked, name=SFT.name, settings={name: value for name, value in asked.settings.items() if name not in own}
        )

    @property
    def note(self) -> str:
        """What differs from what was asked for; empty where nothing does."""
        asked = self.plan.methods[self.trial.label].name
        if self.choice.name == asked:
            return ""
        if self.task.plain:
            return f"{self.folder.name}: trained by {SFT.name}, since the stream says plain"
        return f"{self.folder.name}: trained by {SFT.name}, since {asked} needs a memory and there is none yet"
