"""`dualselect train`: fine-tune a model by any method, from a YAML file and flags."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualselect.errors import ConfigError

if TYPE_CHECKING:
    from dualselect.cli.settings import Settings
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

    from dualselect.cli.settings import parse_settings
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
        ConfigError: Settings that do not go together, or an output folder that holds a run already.
        DataError: Data that can't be used, or prompts that stand in two sets.
        ResumeError: The checkpoint belongs to another run.
    """
    from trl import get_peft_config, get_quantization_config

    from dualselect.cli.run_data import load_run_data
    from dualselect.quickstart import resolve_model
    from dualselect.training import DualSelectTrainer

    checkpoint = _checkpoint(settings)
    data = load_run_data(settings)
    model, training = settings.model, settings.training
    training.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(training.model_init_kwargs or {}),
    }
    trainer = DualSelectTrainer(
        model=resolve_model(model.model_name_or_path),
        args=training,
        train_dataset=data.task,
        eval_dataset=data.evaluation or None,
        reference_dataset=data.references,
        peft_config=get_peft_config(model),
        quantization_config=get_quantization_config(model),
    )
    for adapter in getattr(trainer.model, "peft_config", {}).values():
        # As the user named it: what that was resolved to is true on this machine only.
        adapter.base_model_name_or_path = model.model_name_or_path
    trainer.extra_settings = asdict(settings.model) | asdict(settings.data)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(training.output_dir)
    return trainer


def _checkpoint(settings: "Settings") -> str | None:
    """Return the checkpoint to go on from, or None for a fresh start."""
    from transformers.trainer_utils import get_last_checkpoint

    training = settings.training
    if training.resume_from_checkpoint:
        return str(training.resume_from_checkpoint)
    folder = Path(training.output_dir)
    if not folder.is_dir():
        return None
    if settings.resume:
        last: str | None = get_last_checkpoint(str(folder))
        return last
    if any(folder.iterdir()):
        raise ConfigError(f"output_dir: {folder} is not empty; go on with --resume, remove it, or name another folder")
    return None
