"""A few updates of the real model, to see what a run will take on the device at hand."""

import copy
import tempfile
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from dualselect.data import REFERENCES, TASK
from dualselect.distributed import world_size
from dualselect.errors import ConfigError
from dualselect.experiments.costs import Probe
from dualselect.experiments.run_data import RunData
from dualselect.experiments.settings import Settings
from dualselect.experiments.train import make_trainer
from dualselect.methods import DualSelect, Method

_STEPS = 5  # of which the first only warms up
_POOL = 64  # references, at most
# The probe writes nothing that stays, and does what a run does between two evaluations and checkpoints.
_OWN: dict[str, Any] = {
    "max_steps": _STEPS,
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "report_to": [],
    "disable_tqdm": True,
    "logging_strategy": "no",
    "prompt_overlap": "ignore",
}


def probe(settings: Settings, sets: Mapping[str, Dataset]) -> Probe:
    """Train the model of a run for a few updates in a temporary folder, and return what they took.

    Before each update but the first, DualSelect refreshes its references, of a small part of the pool. The longest
    sample of the task, by characters, is among the batches, since it decides how much memory is needed.

    Args:
        settings: Settings of the run.
        sets: Task, pools and evaluation sets of the run, by role.

    Raises:
        ConfigError: Several processes run this, or the model could not be loaded.
    """
    if world_size() > 1:
        raise ConfigError("--probe runs in one process: start `dualselect check` without a launcher")
    training = copy.copy(settings.training)
    per_update = training.per_device_train_batch_size * training.gradient_accumulation_steps
    pools = {name: _part(dataset, _POOL) for name, dataset in sets.items() if _is_pool(settings, name)}
    references = pools.pop(REFERENCES, None)
    task = _part(sets[TASK], _STEPS * per_update)
    with tempfile.TemporaryDirectory() as folder:
        for name, value in (_OWN | {"output_dir": folder}).items():
            setattr(training, name, value)
        method = _probing(settings.method)
        trainer = make_trainer(replace(settings, training=training), RunData(task, references, pools), method)
        trainer.remove_callback(PrinterCallback)
        clock = _Clock(trainer)
        trainer.add_callback(clock)
        trainer.train()
        return clock.read()


def _is_pool(settings: Settings, name: str) -> bool:
    return name == REFERENCES or name in settings.data.pool_sources


def _part(dataset: Dataset, count: int) -> Dataset:
    """Return evenly spread samples, the longest among them."""
    if len(dataset) <= count:
        return dataset
    texts = zip(dataset["prompt"], dataset["completion"], strict=True)
    sizes = [len(str(prompt)) + len(str(answer)) for prompt, answer in texts]
    longest = max(range(len(sizes)), key=sizes.__getitem__)
    spread = [place * len(dataset) // (count - 1) for place in range(count - 1)]
    return dataset.select(sorted({*spread, longest}))


def _probing(method: Method) -> Method:
    """Return a method that does at every update what it does from time to time; only DualSelect refreshes."""
    if not isinstance(method, DualSelect):
        return method
    # As DualSelect itself, since a control's options may be fixed.
    options: dict[str, Any] = {option.name: getattr(method, option.name) for option in fields(DualSelect)}
    options |= {"task_warmup_steps": 1, "refresh": "steps", "refresh_every": 1, "direction": "frozen"}
    options |= {"reference_fraction": 0.1, "reference_top_k": None, "reference_candidates": None}
    return DualSelect(**options)


class _Clock(TrainerCallback):
    """Notes when updates begin and end; what lies between two of them is mostly the refresh."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._steps: list[float] = []
        self._between: list[float] = []
        self._last = 0.0
        self._peak = 0
        self._is_cuda = trainer.accelerator.device.type == "cuda"
        if self._is_cuda:
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Note the time since the last update."""
        now = self._now()
        if self._last:
            self._between.append(now - self._last)
        self._last = now

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time of an update, and the memory in use."""
        now = self._now()
        self._steps.append(now - self._last)
        self._last = now
        used = torch.cuda.max_memory_allocated() if self._is_cuda else psutil.Process().memory_info().rss
        self._peak = max(self._peak, int(used))

    def _now(self) -> float:
        if self._is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def read(self) -> Probe:
        """Return what was noted, without the first update."""
        method, step, between = self._trainer.method, median(self._steps[1:]), median(self._between)
        device = self._trainer.accelerator.device.type
        if not isinstance(method, DualSelect):  # what its hooks take before an update is part of the update
            return Probe(step + between, 0.0, self._peak, device)
        pool = self._trainer.run.pool()
        scored, chosen = method.references_read(len(pool))
        read = (scored + chosen) * float(pool.lengths.float().mean())
        return Probe(step, between / read, self._peak, device)
