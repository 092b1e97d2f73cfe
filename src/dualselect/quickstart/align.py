"""Making and loading the aligned starting point: the default model with a small safety LoRA.

SmolLM2-135M-Instruct answers most unsafe requests. A few minutes of training on the project's own safe answers turn
it into a model that declines them, and this is what the quickstart then erodes and preserves.
"""

import json
import os
import platform
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from dualselect.devices import computes_bfloat16
from dualselect.errors import ConfigError
from dualselect.models import resolve_model
from dualselect.quickstart.samples import alignment_samples
from dualselect.quickstart.settings import ADAPTER_FOLDER, AlignSettings

RECIPE_FILE = "recipe.json"

_console = Console(stderr=True)


def align(settings: AlignSettings) -> Path:
    """Train the alignment adapter and return its folder: safetensors, PEFT configuration and the recipe.

    Raises:
        ConfigError: The output folder exists already.
    """
    output = Path(settings.output_dir)
    if output.exists():
        raise ConfigError(f"output_dir: {output} exists already; remove it or name another folder")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(settings.model_name_or_path))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".aligning-") as name:
        model, samples, loss = _train(settings, tokenizer, Path(name))
        _console.print(f"Final training loss {loss:.3f}; saving the adapter in {output}")
        _save(model, settings, samples, loss, Path(name) / "adapter")
        (Path(name) / "adapter").rename(output)
    return output


def load_aligned(adapter: str | Path = ADAPTER_FOLDER, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Return the aligned model and its tokenizer: the adapter merged into its base in fp32, rounded to bfloat16.

    The result is a plain model without adapters; fine-tuning puts its own LoRA on top.

    Args:
        adapter: Adapter folder.
        dtype: Type that the model is cast to, without rounding; None is bfloat16, or float32 on a CPU that emulates it.

    Raises:
        ConfigError: `adapter` is not an adapter folder.
    """
    config_file = Path(adapter) / "adapter_config.json"
    if not config_file.is_file():
        raise ConfigError(f"adapter: {adapter} contains no adapter_config.json; make one with `dualselect align`")
    base = resolve_model(json.loads(config_file.read_text())["base_model_name_or_path"])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    if dtype is None:
        merged.to(torch.bfloat16)  # so that the model is the same on every machine
        dtype = _base_dtype()
    return merged.to(dtype), AutoTokenizer.from_pretrained(base)


def _base_dtype() -> torch.dtype:
    is_native = torch.cuda.is_available() or computes_bfloat16("cpu")
    return torch.bfloat16 if is_native else torch.float32


def _train(settings: AlignSettings, tokenizer: Any, work: Path) -> tuple[Any, int, float]:
    """Return the trained PEFT model, the number of samples and the final training loss."""
    samples = alignment_samples(settings.arithmetic)
    model = AutoModelForCausalLM.from_pretrained(resolve_model(settings.model_name_or_path), dtype=_base_dtype())
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(work / "trainer"),
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            per_device_train_batch_size=settings.batch_size,
            gradient_checkpointing=False,
            bf16=False,  # the frozen base is bfloat16 already and the LoRA stays fp32
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            seed=settings.seed,
        ),
        train_dataset=samples,
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=settings.lora_r,
            lora_alpha=2 * settings.lora_r,
            target_modules=target if (target := settings.lora_target) == "all-linear" else target.split(","),
        ),
    )
    _console.print(f"Aligning {settings.model_name_or_path} on {len(samples)} samples, {settings.epochs} epochs ...")
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return trainer.model, len(samples), losses[-1]


def _save(model: Any, settings: AlignSettings, samples: int, loss: float, folder: Path) -> None:
    # The base is named as the user named it: the resolved path is valid on this machine only.
    model.peft_config["default"].base_model_name_or_path = settings.model_name_or_path
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    recipe = {
        "command": "dualselect align",
        "settings": {**asdict(settings), "output_dir": None},
        "samples": samples,
        "final_training_loss": round(loss, 4),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    (folder / RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n")
