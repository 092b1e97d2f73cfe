"""Training one run from its settings: data, model and trainer, and the folder they leave."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dualselect.distributed import on_main_process, world_size
from dualselect.errors import ConfigError, library_errors
from dualselect.experiments.run_data import RunData, load_run_data
from dualselect.experiments.run_model import adapter_config, find_model, quantization_config
from dualselect.experiments.settings import Settings
from dualselect.files import writing
from dualselect.methods import Method
from dualselect.training import DualSelectTrainer
from dualselect.training.checkpoint import last_whole_checkpoint


def train(settings: Settings) -> DualSelectTrainer:
    """Fine-tune, leave the run folder in `output_dir` and return the trainer.

    Raises:
        ConfigError: Settings that do not go together, a model that could not be loaded, or an output folder that
            already contains a run.
        DataError: Data that cannot be used, or prompts that appear in two sets.
        OutputError: A file could not be written, as where the disk is full.
        ResumeError: The checkpoint is not whole, or belongs to another run.
        TrainingError: No optimizer step was made, or the weights are not finite.
    """
    checkpoint = _checkpoint(settings)
    data = load_run_data(settings)
    trainer = make_trainer(settings, data)
    trainer.train(resume_from_checkpoint=checkpoint)
    with writing(Path(settings.training.output_dir)):
        trainer.save_model(settings.training.output_dir)
    return trainer


def make_trainer(settings: Settings, data: RunData, method: Method | None = None) -> DualSelectTrainer:
    """Return the trainer of a run, with its model loaded; by another method than its settings name, if one is given.

    Raises:
        ConfigError: Settings that do not go together, or a model that could not be loaded.
        DataError: Data that cannot be used, or prompts that appear in two sets.
    """
    model, training = settings.model, settings.training
    adapter, quantization = adapter_config(settings), quantization_config(settings)
    find_model(settings)
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(training.model_init_kwargs or {}),
    }
    cure = "change the setting or file that this names"
    with _known_arguments(training.model_init_kwargs), library_errors("training cannot be set up", cure):
        return DualSelectTrainer(
            model=model.model_name_or_path,
            args=training,
            train_dataset=data.task,
            eval_dataset=data.evaluation or None,
            reference_dataset=data.references,
            pools=data.pools or None,
            method=method,
            peft_config=adapter,
            quantization_config=quantization,
            settings=asdict(settings.model) | asdict(settings.data),
        )


@contextmanager
def _known_arguments(kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Turn Python's error about a user's argument that a model does not take into a ConfigError."""
    try:
        yield
    except TypeError as error:
        refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if refused is None or refused.group(1) not in kwargs:
            raise
        raise ConfigError(
            f"model_init_kwargs: the model takes no '{refused.group(1)}'; correct its name, or remove it"
        ) from error


def _checkpoint(settings: Settings) -> str | None:
    """Return the checkpoint to continue from, or None for a fresh start."""
    training = settings.training
    folder = Path(training.output_dir)
    _check_writable(folder)
    if training.resume_from_checkpoint:
        return str(training.resume_from_checkpoint)
    if settings.resume:
        last = last_whole_checkpoint(folder, world_size())
        return None if last is None else str(last)
    on_main_process(partial(_check_empty, folder))
    return None


def _check_empty(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"output_dir: {folder} is not empty; continue with --resume, or name another folder")


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"output_dir: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"output_dir: {there} is not writable; name another folder")
