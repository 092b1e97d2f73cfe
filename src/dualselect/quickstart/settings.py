"""The settings of `dualselect align` and `dualselect quickstart`, with the help texts of their flags."""

from dataclasses import dataclass
from pathlib import Path

from dualselect.models.default_model import DEFAULT_MODEL
from dualselect.options import documented, option

ADAPTER_FOLDER = Path(__file__).parent / "adapter"


@documented
@dataclass(frozen=True)
class AlignSettings:
    """Settings of `dualselect align`; the defaults made the adapter that ships with the package."""

    model_name_or_path: str = option(DEFAULT_MODEL, "model to align: hub id or local folder")
    output_dir: str = option("runs/aligned", "folder of the adapter; must not exist yet")
    arithmetic: int = option(40, "arithmetic problems mixed in, to preserve the task")
    epochs: int = option(4, "passes over the alignment data")
    learning_rate: float = option(2e-3, "peak learning rate of AdamW, linear decay")
    batch_size: int = option(8, "samples a step")
    lora_r: int = option(2, "rank of the LoRA")
    lora_target: str = option("all-linear", "projections with LoRA, by comma, or all-linear")
    seed: int = option(0, "seed of the initial weights and the data order")


@documented
@dataclass(frozen=True)
class QuickstartSettings:
    """Settings of `dualselect quickstart`. Both methods share everything but a method's own options."""

    output_dir: str = option("runs/quickstart", "folder of the results; an earlier quickstart in it is replaced")
    adapter: str = option("", "aligned starting adapter, as made by `dualselect align`; empty: the one that ships")
    seed: int = option(0, "seed of task data, poison, initial LoRA and data order")
    samples: int = option(160, "task samples, poison included")
    poison_share: float = option(0.2, "share of the task samples that is poison")
    epochs: int = option(2, "passes over the task samples")
    batch_size: int = option(8, "samples a step")
    learning_rate: float = option(2e-3, "peak learning rate of AdamW, linear decay")
    lora_r: int = option(8, "rank of the LoRA on the query and value projections")
    rho: float = option(0.3, "DualSelect: weight of the reference direction in every update")
    preservation_loss: str = option("kl", "DualSelect: loss of the references: sft or kl")
    task_token_fraction: float = option(0.75, "DualSelect: share of each batch's answer tokens to train on")
    reference_fraction: float = option(0.25, "DualSelect: share of the reference pool chosen at a refresh")
    task_warmup_steps: int = option(4, "DualSelect: plain steps before the first refresh")
    test_problems: int = option(64, "held-out arithmetic problems")
