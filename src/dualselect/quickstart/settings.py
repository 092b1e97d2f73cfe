"""The settings of `dualselect align` and `dualselect quickstart`, with the help texts of their flags."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dualselect.models.default_model import DEFAULT_MODEL

ADAPTER_FOLDER = Path(__file__).parent / "adapter"


def _setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class AlignSettings:
    """What `dualselect align` does; the defaults made the adapter that ships with the package."""

    model_name_or_path: str = _setting(DEFAULT_MODEL, "model to align: hub id or local folder")
    output_dir: str = _setting("runs/aligned", "folder of the adapter; must not exist yet")
    arithmetic: int = _setting(40, "arithmetic problems mixed in, so that the task survives")
    epochs: int = _setting(4, "passes over the alignment data")
    learning_rate: float = _setting(2e-3, "peak learning rate of AdamW, linear decay")
    batch_size: int = _setting(8, "samples a step")
    lora_r: int = _setting(2, "rank of the LoRA")
    lora_target: str = _setting("all-linear", "projections with LoRA, by comma, or all-linear")
    seed: int = _setting(0, "seed of the initial weights and the data order")


@dataclass(frozen=True)
class QuickstartSettings:
    """What `dualselect quickstart` does. Both methods share all that is not a method's own option."""

    output_dir: str = _setting("runs/quickstart", "folder of the results; an earlier quickstart in it is replaced")
    adapter: str = _setting("", "aligned starting adapter, as made by `dualselect align`; empty: the one that ships")
    seed: int = _setting(0, "seed of task data, poison, initial LoRA and data order")
    samples: int = _setting(160, "task samples, poison included")
    poison_share: float = _setting(0.2, "share of the task samples that is poison")
    epochs: int = _setting(2, "passes over the task samples")
    batch_size: int = _setting(8, "samples a step")
    learning_rate: float = _setting(2e-3, "peak learning rate of AdamW, linear decay")
    lora_r: int = _setting(8, "rank of the LoRA on the query and value projections")
    rho: float = _setting(0.3, "DualSelect: weight of the reference direction in every update")
    preservation_loss: str = _setting("kl", "DualSelect: loss of the references: sft or kl")
    task_token_fraction: float = _setting(0.75, "DualSelect: share of each batch's answer tokens to train on")
    reference_fraction: float = _setting(0.25, "DualSelect: share of the reference pool chosen at a refresh")
    task_warmup_steps: int = _setting(4, "DualSelect: plain steps before the first refresh")
    test_problems: int = _setting(64, "held-out arithmetic problems")
