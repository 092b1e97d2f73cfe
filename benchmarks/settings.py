"""What a benchmark of the step measures, and how often."""

from dataclasses import dataclass, replace

import torch

from dualselect.devices import computes_bfloat16

LORA_TARGETS: dict[str, str | list[str]] = {"attention": ["q_proj", "v_proj"], "all_linear": "all-linear"}
DEFAULT_MODELS = {"cpu": ("smollm2", "random-20m"), "cuda": ("random-1b", "random-8b")}


@dataclass(frozen=True)
class Settings:
    """The settings of `python -m benchmarks.step`; all of them are written beside the figures.

    Attributes:
        models: Names of `benchmarks.models`.
        device: `cpu` or `cuda`.
        rounds: Timed rounds of steps; a round is one step of both trainers on one batch.
        slow_rounds: Timed rounds of slow parts: refreshes of all samples, and the loop over single samples.
        batches: Number of different batches. Each is run once before anything is timed.
        batch_size: Samples in a batch.
        problems_per_sample: Most arithmetic problems in one sample; each sample draws from 1 to this many.
        pools: Pool sizes whose refresh is measured for memory.
        memory_problems_per_sample: As `problems_per_sample`, for the memory measurements.
        autocast: Whether to use bf16 autocast, TRL's default. Off by default on a CPU that emulates bf16, where
            the base weights are fp32 as well.
        gradient_checkpointing: Whether to recompute activations in backward.
        length: Tokens of every sample, about; None draws them by the number of problems.
        four_bits: Whether the base weights are quantised to four bits (NF4), as in QLoRA.
        targets: Where the LoRA is in turn, names of `LORA_TARGETS`.
        run_steps: Updates of a whole training run, which is timed once by each trainer; 0 leaves it out.
        seed: Seed of samples, random models and adapters.
    """

    models: tuple[str, ...]
    device: str
    rounds: int = 7
    slow_rounds: int = 3
    batches: int = 3
    batch_size: int = 8
    problems_per_sample: int = 4
    pools: tuple[int, ...] = (256, 4096)
    memory_problems_per_sample: int = 2
    autocast: bool = True
    gradient_checkpointing: bool = False
    length: int | None = None
    four_bits: bool = False
    targets: tuple[str, ...] = tuple(LORA_TARGETS)
    run_steps: int = 0
    seed: int = 0

    @classmethod
    def default(cls, device: str | None = None) -> "Settings":
        """Return the settings for a device, the accelerator where there is one."""
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        settings = cls(models=DEFAULT_MODELS[device], device=device, autocast=computes_bfloat16(device))
        if device == "cpu":
            return settings
        return replace(settings, rounds=24, slow_rounds=8, batches=8, memory_problems_per_sample=4)

    def quick(self) -> "Settings":
        """Return settings for a smoke run, which shows that everything works but whose figures mean little."""
        models = ("random-tiny",) if self.models == DEFAULT_MODELS[self.device] else self.models
        return replace(
            self, models=models, rounds=2, slow_rounds=1, batches=2, pools=(16, 64), problems_per_sample=1, run_steps=2
        )
