"""The settings of a run: TRL's, plus the method and how losses are averaged."""

from dataclasses import dataclass, field
from typing import Any

import torch
from trl import SFTConfig

from dualselect.data import POLICIES
from dualselect.errors import ConfigError, nearest

LOSS_AVERAGES = ("sample", "token")


@dataclass
class DualSelectConfig(SFTConfig):
    """All of `trl.SFTConfig`, whose fields keep their meaning, and what a method needs besides.

    Raises:
        ConfigError: A setting has an unknown value, or cannot be combined with per-sample selection.
    """

    method: str = field(default="dualselect", metadata={"help": "Fine-tuning method; `dualselect methods` lists them."})
    method_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of the method, by name; in YAML and flags they stand alone."}
    )
    loss_average: str = field(
        default="sample",
        metadata={
            "help": "Average of a batch's losses: 'sample' is the mean of per-sample means (the paper), 'token' the "
            "mean over all supervised tokens (TRL's own).",
            "choices": list(LOSS_AVERAGES),
        },
    )
    reference_batch_size: int | None = field(
        default=None,
        metadata={"help": "References in one forward pass. Unset: per_device_train_batch_size."},
    )
    reference_answer_tokens: int = field(
        default=128,
        metadata={"help": "Longest answer that the starting model gives to a reference without one, in tokens."},
    )
    prompt_overlap: str = field(
        default="error",
        metadata={
            "help": "When a prompt stands in two sets: stop with an 'error'; 'drop' it from the references if it is a "
            "task, from evaluation if it is either; or 'ignore' it between task and references.",
            "choices": list(POLICIES),
        },
    )
    eval_on_start: bool = field(
        default=True, metadata={"help": "Evaluate before the first step, if there is anything to evaluate on."}
    )

    def __post_init__(self) -> None:
        # TRL trains in bf16 by default, which transformers only takes on a CPU that was asked for.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        for option, choices in (("loss_average", LOSS_AVERAGES), ("prompt_overlap", POLICIES)):
            value = getattr(self, option)
            if value not in choices:
                raise ConfigError(f"unknown {option} '{value}'{nearest(value, choices)}")
        for option in ("reference_batch_size", "reference_answer_tokens"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise ConfigError(f"{option} is {value}; give at least 1")


def check_selection_settings(args: DualSelectConfig) -> None:
    """Raise a ConfigError for a setting under which the samples of a batch cannot be told apart."""
    refused = {
        "packing": (args.packing, "samples would share a row: set packing=False"),
        "fp16": (args.fp16, "small gradients would underflow without loss scaling: set bf16=True"),
        "loss_type": (args.loss_type != "nll", "only 'nll' has per-sample gradients here"),
        "label_smoothing_factor": (args.label_smoothing_factor > 0, "set it to 0"),
        "neftune_noise_alpha": (args.neftune_noise_alpha is not None, "leave it unset"),
        "gradient_checkpointing_kwargs": (
            bool((args.gradient_checkpointing_kwargs or {}).get("use_reentrant")),
            "reentrant checkpointing hides gradients: set use_reentrant to False",
        ),
        "deepspeed": (args.deepspeed is not None, "use DDP (accelerate launch), whose parameters are whole"),
        "fsdp": (bool(args.fsdp), "use DDP (accelerate launch), whose parameters are whole"),
    }
    for option, (is_set, cure) in refused.items():
        if is_set:
            raise ConfigError(f"{option}={getattr(args, option)!r} does not go with per-sample selection: {cure}")
