"""`dualselect train`: fine-tune a model by any method, from a YAML file and flags."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualselect.errors import ConfigError, library_errors

if TYPE_CHECKING:
    from dualselect.experiments.run_data import RunData
    from dualselect.experiments.settings import Settings
    from dualselect.training import DualSelectTrainer

ABOUT = """Fine-tune a model. Settings come from a YAML file, from flags, or from both.

  dualselect train --config examples/gsm8k.yaml
  dualselect train --config examples/gsm8k.yaml --method sft --output_dir runs/plain
  dualselect train --task data/task.jsonl --references data/safe.jsonl --model my/model --rho 0.3"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`; its many flags are only made when it runs."""
    parser = subparsers.add_parser("train", help="fine-tune a model by any method", unread="arguments")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fine-tune as the arguments say; returns the exit code."""
    from accelerate import PartialState

    from dualselect.experiments.settings import parse_settings
    from dualselect.reports import write_model_card, write_report
    from dualselect.training import record_conflicts

    settings = parse_settings(args.arguments, "train", ABOUT)
    record_conflicts(train(settings))
    if PartialState().is_main_process:
        folder = Path(settings.training.output_dir)
        write_model_card(folder)
        print(f"Saved in {folder}; {write_report(folder)} shows what happened")
    return 0


def train(settings: "Settings") -> "DualSelectTrainer":
    """Fine-tune, leave the run folder in `output_dir` and return the trainer.

    Raises:
        ConfigError: Settings that do not go together, a model that could not be loaded, or an output folder that
            already contains a run.
        DataError: Data that cannot be used, or prompts that appear in two sets.
        ResumeError: The checkpoint is not whole, or belongs to another run.
        TrainingError: No optimizer step was made, or the weights are not finite.
    """
    from dualselect.experiments.run_data import load_run_data

    checkpoint = _checkpoint(settings)
    data = load_run_data(settings)
    trainer = _trainer(settings, data)
    for adapter in getattr(trainer.model, "peft_config", {}).values():
        # As the user named it: what that was resolved to is true on this machine only.
        adapter.base_model_name_or_path = settings.model.model_name_or_path
    trainer.extra_settings = asdict(settings.model) | asdict(settings.data)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(settings.training.output_dir)
    return trainer


def _trainer(settings: "Settings", data: "RunData") -> "DualSelectTrainer":
    from trl import get_peft_config

    from dualselect.experiments.run_model import find_model, quantization_config
    from dualselect.training import DualSelectTrainer

    model, training = settings.model, settings.training
    place, quantization = find_model(settings), quantization_config(settings)
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(training.model_init_kwargs or {}),
    }
    with library_errors("training cannot be set up", "change the setting or file that this speaks of"):
        return DualSelectTrainer(
            model=place,
            args=training,
            train_dataset=data.task,
            eval_dataset=data.evaluation or None,
            reference_dataset=data.references,
            pools=data.pools or None,
            peft_config=get_peft_config(model),
            quantization_config=quantization,
        )


def _checkpoint(settings: "Settings") -> str | None:
    """Return the checkpoint to continue from, or None for a fresh start."""
    from dualselect.distributed import world_size
    from dualselect.training.checkpoint import last_whole_checkpoint

    training = settings.training
    folder = Path(training.output_dir)
    _check_writable(folder)
    if training.resume_from_checkpoint:
        return str(training.resume_from_checkpoint)
    if not folder.is_dir():
        return None
    if settings.resume:
        last = last_whole_checkpoint(folder, world_size())
        return None if last is None else str(last)
    if any(folder.iterdir()):
        raise ConfigError(f"output_dir: {folder} is not empty; continue with --resume, or name another folder")
    return None


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"output_dir: {there} is a file; name a folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"output_dir: {there} may not be written to; name another folder")
