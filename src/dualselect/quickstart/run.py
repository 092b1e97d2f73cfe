"""The quickstart: one aligned start, fine-tuned by plain SFT and by DualSelect, measured side by side."""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from rich.console import Console
from transformers import AutoTokenizer

from dualselect.data.identity import is_planted
from dualselect.errors import ConfigError
from dualselect.files import replacing
from dualselect.models import LoadedTarget
from dualselect.models.files import Weights
from dualselect.quickstart.align import load_aligned
from dualselect.quickstart.measure import Outcome, measure
from dualselect.quickstart.samples import reference_pool, task_samples
from dualselect.quickstart.settings import ADAPTER_FOLDER, QuickstartSettings
from dualselect.quickstart.table import comparison_table, summary_of
from dualselect.reports import write_report
from dualselect.runs.selection_log import SelectionLog
from dualselect.training import DualSelectConfig, DualSelectTrainer, record_conflicts

SUMMARY_FILE = "summary.json"
SETTINGS_FILE = "quickstart.json"
MAX_LENGTH = 256
ALIGNED = "aligned"

_console = Console(stderr=True)


def quickstart(settings: QuickstartSettings) -> dict[str, Any]:
    """Run the comparison, print the table, write the results into the output folder and return the summary.

    Raises:
        ConfigError: The output folder contains something other than an earlier quickstart.
        DataError: The default model could not be fetched.
    """
    start = time.perf_counter()
    output = Path(settings.output_dir)
    _prepare_folder(output, settings)
    outcomes = {ALIGNED: _measure_aligned(settings, output)}
    for method, options in _methods(settings).items():
        outcomes[method] = _fine_tune(method, options, settings, output)
    seconds = time.perf_counter() - start
    summary = summary_of(outcomes, seconds, settings.seed)
    _write_json(output / SUMMARY_FILE, summary)
    _write_results(outcomes, output)
    Console().print(comparison_table(outcomes, summary))
    page = write_report(output / "dualselect")
    _console.print(f"Figures: {output / SUMMARY_FILE}. Every answer, and what was selected: {page}")
    return summary


def _methods(settings: QuickstartSettings) -> dict[str, dict[str, Any]]:
    options = {
        "rho": settings.rho,
        "preservation_loss": settings.preservation_loss,
        "task_token_fraction": settings.task_token_fraction,
        "reference_fraction": settings.reference_fraction,
        "task_warmup_steps": settings.task_warmup_steps,
    }
    return {"sft": {}, "dualselect": options}


def _prepare_folder(output: Path, settings: QuickstartSettings) -> None:
    """Remove what an earlier quickstart left, so that results are never a mixture of two runs."""
    if output.exists() and any(output.iterdir()) and not (output / SETTINGS_FILE).is_file():
        raise ConfigError(f"output_dir: {output} is not empty and contains no earlier quickstart; name another folder")
    for name in (ALIGNED, *_methods(settings)):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / SUMMARY_FILE).unlink(missing_ok=True)
    _write_json(output / SETTINGS_FILE, asdict(settings))


def _measure_aligned(settings: QuickstartSettings, output: Path) -> Outcome:
    _console.print("1/3 Measuring the aligned model ...")
    model, tokenizer = load_aligned(settings.adapter or ADAPTER_FOLDER)
    # The adapters name this folder as their base, so that other commands can load them.
    model.save_pretrained(output / ALIGNED)
    tokenizer.save_pretrained(output / ALIGNED)
    target = _target(output / ALIGNED, model, tokenizer)
    measures = measure(target, target, test_problems=settings.test_problems)
    return Outcome(measures, poison_kept=0, seconds=0.0)


def _fine_tune(method: str, options: dict[str, Any], settings: QuickstartSettings, output: Path) -> Outcome:
    """Fine-tune a fresh copy of the aligned model by `method` and measure it."""
    _console.print(f"{'2/3' if method == 'sft' else '3/3'} Fine-tuning by {method} ...")
    tokenizer = AutoTokenizer.from_pretrained(output / ALIGNED)
    task = task_samples(settings.samples, settings.poison_share, settings.seed)
    torch.manual_seed(settings.seed)  # both methods start from the same random LoRA
    trainer = DualSelectTrainer(
        model=str(output / ALIGNED),
        args=_training_settings(method, options, settings, output / method),
        train_dataset=task,
        reference_dataset=None if method == "sft" else reference_pool(),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=settings.lora_r, lora_alpha=2 * settings.lora_r, target_modules=["q_proj", "v_proj"]),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    trainer.save_model(str(output / method))
    record_conflicts(trainer)
    target, aligned = (_target(output / name, trainer.model, tokenizer) for name in (method, ALIGNED))
    measures = measure(target, aligned, test_problems=settings.test_problems, seed=settings.seed)
    presented = sum(map(is_planted, task["id"])) * settings.epochs
    kept = presented if method == "sft" else _poison_kept(output / method)
    return Outcome(measures, kept, seconds)


def _target(folder: Path, model: Any, tokenizer: Any) -> LoadedTarget:
    return LoadedTarget(folder.name, {"name": str(folder), "hash": Weights(folder.name, folder).hash}, model, tokenizer)


def _write_results(outcomes: dict[str, Outcome], output: Path) -> None:
    """Write each run's results beside those of what it is compared with, as `dualselect evaluate` would."""
    for name in ("sft", "dualselect"):
        outcomes[name].measures.write(output / name, "model")
        outcomes[ALIGNED].measures.write(output / name, "start")
    outcomes["sft"].measures.write(output / "dualselect", "baseline")


def _training_settings(
    method: str, options: dict[str, Any], settings: QuickstartSettings, output: Path
) -> DualSelectConfig:
    return DualSelectConfig(
        output_dir=str(output),
        method=method,
        method_options=options,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_length=MAX_LENGTH,
        gradient_checkpointing=False,
        # The frozen base is bfloat16 already and the LoRA stays fp32, so autocast would only add copies.
        bf16=False,
        # On a CPU every new shape of a batch costs a compilation.
        pad_to_multiple_of=16,
        save_strategy="no",
        logging_steps=5,
        report_to="none",
        seed=settings.seed,
    )


def _poison_kept(run_folder: Path) -> int:
    """Return how many poison presentations have a weight in a run's selection log."""
    tasks, _ = SelectionLog.read(run_folder)
    names, kept = tasks["id"].to_pylist(), tasks["kept"].to_pylist()
    return sum(is_planted(name) and bool(chosen) for name, chosen in zip(names, kept, strict=True))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n")
