"""One stage: its settings, its memory, its training, and the model that it leaves."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from dualselect import methods
from dualselect.continual.conflict import conflicts_with_task
from dualselect.continual.memory import FOLDER as MEMORY
from dualselect.continual.memory import Row, memory_of, sizes
from dualselect.continual.merging import merged_model
from dualselect.continual.plan import Plan, Stage, Trial
from dualselect.data import REFERENCES
from dualselect.devices import computes_bfloat16
from dualselect.experiments.grid_settings import effective
from dualselect.experiments.request import MethodChoice
from dualselect.experiments.settings import Settings, options_of
from dualselect.experiments.train import train
from dualselect.experiments.trial import Cell
from dualselect.models import resolve_model
from dualselect.models.files import MODEL_CONFIG, locate
from dualselect.models.loading import default_device

#: Options that a method may have and a stage fills in: the pools of several memories, and the adapters of before.
FURTHER_MEMORIES, EARLIER = "further_memories", "earlier"

# Where things lie, and what follows from the stages before, whose settings are part of a stage's own.
_PLACES = ("task", "references", "pools", "model_name_or_path", "dtype", FURTHER_MEMORIES, EARLIER)

_console = Console(stderr=True, highlight=False, soft_wrap=True)


def cells_of(trial: Trial) -> list[Cell]:
    """Return a cell for every stage of a trial, then for every task learned alone; `run` of each is the stage.

    Their state and settings are kept as those of a comparison's cells. The settings of a stage contain the hash of the
    stage before, so that a change of an earlier one is a change of all that follow.
    """
    cells: list[Cell] = []
    for stage in trial.stages:
        cells.append(_cell(stage, cells[-1].hash if cells else None))
    return cells + [_cell(stage, None) for stage in trial.singles]


def _cell(stage: Stage, before: str | None) -> Cell:
    plan = stage.plan
    settings = {name: value for name, value in effective(stage_settings(stage, {})).items() if name not in _PLACES}
    settings |= {"model": plan.base, "stage_before": before, "task": stage.task.task}
    if stage.has_memory:
        settings |= {"memory": asdict(plan.memory), "safety": plan.safety}
    label = f"{stage.trial.label}/{stage.folder.name}"
    return Cell(label, stage.choice.name, stage.trial.seed, stage.folder, settings, stage)


def train_stage(cell: Cell) -> None:
    """Train a stage, from its last checkpoint if there is one; its run folder gets memory and adapter."""
    stage: Stage = cell.run
    if stage.note:
        _console.print(stage.note, markup=False)

    def conflicts(stage: Stage, candidates: Sequence[Row]) -> Sequence[float]:
        return conflicts_with_task(stage_settings(stage, {}, start_of(stage)), candidates)

    memory = memory_of(stage, cell.hash, lambda earlier: stage_settings(earlier, {}), conflicts)
    train(fitting(stage, memory))


def start_of(stage: Stage) -> str:
    """Return the model that a stage begins with, made if need be."""
    return _merged(stage.trial, stage.earlier)


def model_of(stage: Stage) -> str:
    """Return the model that a stage leaves, made if need be; for a task learned alone its run folder, an adapter."""
    if stage.is_single:
        return str(stage.folder)
    return _merged(stage.trial, [*stage.earlier, stage])


def _merged(trial: Trial, stages: Sequence[Stage]) -> str:
    if not stages:
        return trial.plan.base
    folder = stages[-1].model
    for other in trial.models:
        if not folder.exists():
            other.rename(folder)  # it knows what is merged into it, so only what is missing is added
        elif other != folder:
            shutil.rmtree(other)
    return merged_model(trial.plan.base, [stage.folder for stage in stages], folder, resolve_model)


def dtype_of(plan: Plan) -> str:
    """Return the type that the models of all stages are loaded in: that of the first one's checkpoint.

    Merged models are saved in fp32, so that adapters are not rounded away, whatever they are loaded in.
    """
    if not computes_bfloat16(default_device()):
        return "float32"
    config = json.loads((locate(plan.base, resolve_model).folder / MODEL_CONFIG).read_text(encoding="utf-8"))
    found = str(config.get("dtype") or config.get("torch_dtype"))
    return found if found in ("bfloat16", "float16") else "float32"


def fitting(stage: Stage, memory: Mapping[str, Path]) -> Settings:
    """Return the settings of a stage, with batches that no memory of its own pool is too small for.

    How many samples of a task a reservoir keeps is left to chance, so that none can be asked for beforehand.
    """
    settings = stage_settings(stage, memory, start_of(stage))
    asked = getattr(settings.method, "memory_batch_size", None)
    if asked is None or not hasattr(settings.method, FURTHER_MEMORIES):
        return settings
    found = sizes(memory)
    smallest = min(found, key=lambda name: found[name])
    if found[smallest] >= asked:
        return settings
    _console.print(
        f"{stage.folder.name}: memory '{smallest}' has {found[smallest]} samples, so memory_batch_size is that instead "
        f"of {asked}",
        markup=False,
    )
    return stage_settings(stage, memory, start_of(stage), memory_batch_size=found[smallest])


def stage_settings(stage: Stage, memory: Mapping[str, Path], start: str | None = None, **others: Any) -> Settings:
    """Return the settings that a stage is trained with.

    Args:
        stage: The stage.
        memory: Files of the memory by the name of their pool.
        start: Model to begin with; None leaves it open.
        **others: Further settings.
    """
    choice = stage.choice
    values = {
        "seed": stage.trial.seed,
        "output_dir": str(stage.folder),
        "task": stage.task.source,
        **_of_memory(choice, stage.folder / MEMORY, memory),
        **others,
    }
    if EARLIER in options_of(choice.name):
        values[EARLIER] = ",".join(str(earlier.folder) for earlier in stage.earlier)
    if start is not None and stage.earlier:
        values["model_name_or_path"] = start
        if stage.plan.first.model.dtype == "auto":
            values["dtype"] = dtype_of(stage.plan)
    return stage.plan.build(choice, values)


def _of_memory(choice: MethodChoice, folder: Path, memory: Mapping[str, Path]) -> dict[str, Any]:
    """Return what a method is given of the memory: nothing, a pool for each part, or all of it as one pool."""
    if REFERENCES not in methods.get(choice.name).pools or not memory:
        return {"references": None}
    if FURTHER_MEMORIES not in options_of(choice.name):
        return {"references": str(folder)}
    first, *further = memory
    values: dict[str, Any] = {"references": str(memory[first]), FURTHER_MEMORIES: ",".join(further)}
    return values | ({"pools": {name: str(memory[name]) for name in further}} if further else {})
