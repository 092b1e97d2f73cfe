"""The settings of a run: TRL's, plus the method and how losses are averaged."""

import copy
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum
from typing import Any

import torch
from accelerate import Accelerator
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from dualselect.data import POLICIES
from dualselect.devices import computes_bfloat16
from dualselect.errors import ConfigError, nearest
from dualselect.gradients import Parameters
from dualselect.options import documented
from dualselect.training import _trl

LOSS_AVERAGES = ("sample", "token")
_AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "scan_tokens",
    "reference_answer_tokens",
)
_BY_LENGTH = ("group_by_length", "batch_rebalance")
_STEPS_IN_BACKWARD = [name for name in OptimizerNames if name.value.endswith(("layerwise", "lomo"))]


@documented
@dataclass
class DualSelectConfig(SFTConfig):
    """All of `trl.SFTConfig`, whose fields keep their meaning and defaults, and what a method needs in addition.

    Raises:
        ConfigError: A setting has an unknown value.
    """

    method: str = field(default="dualselect", metadata={"help": "Fine-tuning method; `dualselect methods` lists them."})
    method_options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "Options of the method, by name; plain settings in YAML and flags."}
    )
    loss_average: str = field(
        default="sample",
        metadata={
            "help": "Average of an optimizer step's losses: 'sample' is the mean of per-sample means (the paper), "
            "'token' the mean over all supervised tokens (TRL's own).",
            "choices": list(LOSS_AVERAGES),
        },
    )
    window_memory: float | None = field(
        default=None,
        metadata={
            "help": "GiB for the per-sample gradients of an optimizer step, which are kept until all of its "
            "micro-batches are scored; what does not fit is differentiated a second time. Unset: half of what is "
            "free at the first step."
        },
    )
    scan_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Padded tokens in one batch of a pass over a pool, such as a refresh. Unset: those of the largest "
            "training batch, so that a refresh needs no more memory than a step."
        },
    )
    reference_answer_tokens: int = field(
        default=128,
        metadata={
            "help": "Longest answer of the starting model to a reference without one, thoughts and all, in tokens."
        },
    )
    template_date: str | None = field(
        default=None,
        metadata={
            "help": "Date and time, as 2026-01-31T12:00:00, for chat templates that ask for today's date. "
            "Unset: those of the run's start."
        },
    )
    prompt_overlap: str = field(
        default="error",
        metadata={
            "help": "When a prompt appears in two sets: stop with an 'error'; 'drop' it from the references (or "
            "another pool) if it is a task prompt, from evaluation if it is either; or 'ignore' it between the task "
            "and the pools.",
            "choices": list(POLICIES),
        },
    )

    def __post_init__(self) -> None:
        # TRL trains in bf16 by default, which transformers only accepts on a CPU if that was requested.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.bf16 is None and self.use_cpu and not computes_bfloat16("cpu"):
            self.bf16 = False  # TRL's default would take ten times as long
        with _trl.old_names():
            super().__post_init__()
        for option, choices in (("loss_average", LOSS_AVERAGES), ("prompt_overlap", POLICIES)):
            value = getattr(self, option)
            if value not in choices:
                raise ConfigError(f"unknown {option} '{value}'{nearest(value, choices)}")
        for option in _AT_LEAST_ONE:
            value = getattr(self, option)
            if value is not None and value < 1:
                raise ConfigError(f"{option} is {value}; give at least 1")
        for option in ("seed", "data_seed"):
            value = getattr(self, option)
            if value is not None and not 0 <= value < 2**32:
                raise ConfigError(f"{option} is {value}; give a whole number from 0 to {2**32 - 1}")
        if self.template_date is not None:
            try:
                datetime.fromisoformat(self.template_date)
            except ValueError as error:
                raise ConfigError(
                    f"template_date is '{self.template_date}'; write it as 2026-01-31T12:00:00"
                ) from error
        if self.window_memory is not None and self.window_memory < 0:
            raise ConfigError(f"window_memory is {self.window_memory}; give at least 0 GiB")
        if self.activation_offloading and self.use_cpu:
            raise ConfigError(
                "activation_offloading=True moves activations from an accelerator to the CPU, where this run is: "
                "set it to False"
            )
        if self.packs_whole_samples:
            self._check_packing()

    @property
    def packs_whole_samples(self) -> bool:
        """Whether the task is packed into rows of whole samples, not by TRL into rows that may cut them."""
        return bool(self.packing) and self.packing_strategy == "bfd"

    def samples_of_steps(self) -> int:
        """Return how many samples all optimizer steps train on, over all processes: what is read of a streamed task.

        Raises:
            ConfigError: The number of steps is not set, or that of samples in a step is not known.
        """
        if self.max_steps < 1:
            raise ConfigError("a streamed task needs max_steps, which says how far it is read: set it")
        if self.packing:
            raise ConfigError(
                "a streamed task does not go with packing=True, since how many samples the rows of max_steps contain "
                "is not known: set packing=False, or give the task as a whole data set"
            )
        per_step = self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
        return self.max_steps * per_step

    def _check_packing(self) -> None:
        if self.max_length is None:
            raise ConfigError("packing=True needs max_length, the most tokens of a row: set it")
        if self.train_sampling_strategy in _BY_LENGTH:
            raise ConfigError(
                f"train_sampling_strategy='{self.train_sampling_strategy}' does not go with packing=True, whose rows "
                "are of similar length as it is: set it to 'random'"
            )


def own_copy(args: SFTConfig | None) -> DualSelectConfig:
    """Return a copy of the caller's settings that a trainer may change; TRL's settings become ours."""
    if args is None:
        return DualSelectConfig(output_dir="runs/dualselect")
    if isinstance(args, DualSelectConfig):
        return copy.copy(args)
    given = {option.name: getattr(args, option.name) for option in fields(args) if option.init}
    return DualSelectConfig(**given)


def check_settings(args: DualSelectConfig, what: str, compute_loss_func: Any = None) -> None:
    """Refuse settings that only TRL's own loss supports.

    Args:
        args: Settings of the run.
        what: Part of the run that takes its own loss, as the message calls it.
        compute_loss_func: Argument of the trainer with that name.

    Raises:
        ConfigError: A setting would be ignored, or would mix the samples of a batch.
    """
    refused = {
        "packing_strategy": (
            args.packing and not args.packs_whole_samples,
            "it cuts samples apart: set it to 'bfd', whose rows are of whole samples",
        ),
        "loss_type": (args.loss_type not in ("nll", "chunked_nll"), "only 'nll' has per-sample losses here"),
        "label_smoothing_factor": (args.label_smoothing_factor > 0, "set it to 0"),
        "neftune_noise_alpha": (args.neftune_noise_alpha is not None, "leave it unset"),
        "use_liger_kernel": (args.use_liger_kernel, "its fused loss has no per-sample values: set it to False"),
        "torch_compile": (
            args.torch_compile,
            "a compiled forward would lose the gradients of single samples, and is not used: set it to False",
        ),
        "pad_to_multiple_of": (
            bool((args.padding_free or args.packing) and args.pad_to_multiple_of),
            "with padding_free or packing the padding would count as samples: leave one of the two out",
        ),
        "average_tokens_across_devices": (
            args.loss_average == "token" and not args.average_tokens_across_devices,
            "the token average is taken over all processes: set it to True",
        ),
        "gradient_checkpointing_kwargs": (
            bool((args.gradient_checkpointing_kwargs or {}).get("use_reentrant")),
            "reentrant checkpointing hides gradients: set use_reentrant to False",
        ),
        "optim": (
            args.optim in _STEPS_IN_BACKWARD,
            "it steps inside a backward pass, before there is a gradient of the whole step: choose another",
        ),
    }
    for option, (is_set, cure) in refused.items():
        if is_set:
            value = getattr(args, option)
            shown = value.value if isinstance(value, Enum) else value
            raise ConfigError(f"{option}={shown!r} does not go with {what}: {cure}")
    if compute_loss_func is not None:
        raise ConfigError(f"compute_loss_func does not go with {what}: define a loss in a method's `losses`")


def check_accelerator(accelerator: Accelerator, n_gpu: int, what: str) -> None:
    """Refuse an accelerate setup that per-sample gradients cannot use, however it was requested.

    Flags, an accelerate configuration and environment variables can all set it up, so its state is checked.

    Raises:
        ConfigError: Losses are scaled, one process drives several GPUs, or processes get unequal batches.
    """
    if accelerator.scaler is not None or accelerator.mixed_precision == "fp16":
        raise ConfigError(
            f"fp16 does not go with {what}: small gradients would underflow without loss scaling; set bf16=True "
            "(accelerate launch --mixed_precision bf16)"
        )
    if n_gpu > 1:
        raise ConfigError(
            f"one process with {n_gpu} GPUs does not go with {what}: start one process per GPU with accelerate launch, "
            "or set CUDA_VISIBLE_DEVICES to one"
        )
    if accelerator.num_processes > 1 and not accelerator.even_batches:
        raise ConfigError(f"even_batches=False does not go with {what}: every process needs the same number of samples")


def check_placement(params: Parameters) -> None:
    """Refuse parameters on several devices: a gradient is one vector on one device.

    Raises:
        ConfigError: The model is spread over devices, as by `device_map="auto"`.
    """
    devices = sorted({str(param.device) for param in params.values()})
    if len(devices) > 1:
        raise ConfigError(
            f"the trainable parameters are on several devices ({', '.join(devices)}): load the model on one, without a "
            "device_map, and start one process per GPU with accelerate launch"
        )


def check_offloading(args: DualSelectConfig, has_router_loss: bool, what: str) -> None:
    """Refuse activation offloading where a step goes through its graph twice: TRL returns each activation only once.

    Args:
        args: Settings of the run.
        has_router_loss: Whether the routers of a mixture of experts add a loss, which is differentiated apart.
        what: Part of the run that takes its own loss, as the message calls it.

    Raises:
        ConfigError: Both are on.
    """
    if args.activation_offloading and has_router_loss:
        raise ConfigError(
            f"activation_offloading=True does not go with the routers' loss under {what}: set it to False, or "
            "router_aux_loss_coef to 0"
        )
