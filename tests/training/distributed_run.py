"""Small runs, one after the other, alone or as one of several processes: `python distributed_run.py MODEL FOLDER`.

The file `runs.json` in FOLDER says which, by name; each leaves its outcome in a folder of its own.
"""

import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from dualselect import DualSelectConfig, DualSelectTrainer
from dualselect.training import record_conflicts

SPOILT = "~"  # a token whose embedding is not a number, where a run asks for it


def samples(count: int, word: str, spoilt: int | None = None) -> Dataset:
    """Return chats whose answers have unequal lengths; the prompt of sample `spoilt` contains the spoilt token."""
    return Dataset.from_list(
        [
            {
                "id": f"{word}{number}",
                "prompt": [{"role": "user", "content": f"{word} {number}" + (SPOILT if number == spoilt else "?")}],
                "completion": [{"role": "assistant", "content": " ".join([word] * (1 + number * 7 % 5))}],
            }
            for number in range(count)
        ]
    )


def make(model: str, folder: Path, run: dict[str, Any]) -> SFTTrainer:
    """Return the trainer of a run.

    Args:
        model: Folder of the model and its tokenizer.
        folder: Output folder.
        run: Settings that differ from those here, and `model` (another folder), `tasks` (how many samples), `spoilt`
            (which of them loses its finite loss) and `trl` (whether TRL's own trainer is to run).
    """
    torch.manual_seed(0)
    run = dict(run)
    model = run.pop("model", model)
    tasks, spoilt, is_trl = run.pop("tasks", 32), run.pop("spoilt", None), run.pop("trl", False)
    settings = {
        "output_dir": str(folder),
        "max_steps": 6,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "ddp_backend": "gloo" if "WORLD_SIZE" in os.environ else None,
        "disable_tqdm": True,
    } | run
    weights, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    if spoilt is not None:
        with torch.no_grad():
            weights.get_input_embeddings().weight[tokenizer(SPOILT)["input_ids"]] = torch.nan
    data = samples(tasks, "count", spoilt)
    given = {
        "model": weights,
        "processing_class": tokenizer,
        "peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    }
    if is_trl:
        return SFTTrainer(args=SFTConfig(**settings), train_dataset=data.remove_columns("id"), **given)
    references = samples(7, "no")
    return DualSelectTrainer(
        args=DualSelectConfig(**settings), train_dataset=data, reference_dataset=references, **given
    )


def carry_out(model: str, folder: Path, run: dict[str, Any]) -> None:
    """Make a run and save the trainable weights of this process, with the directions, and the log."""
    trainer = make(model, folder, run)
    trainer.train()
    parameters = trainer.model.named_parameters()
    weights = {name: param.detach().clone() for name, param in parameters if param.requires_grad}
    if isinstance(trainer, DualSelectTrainer):
        record_conflicts(trainer)
        for name, direction in trainer.method.directions().items():
            weights[f"direction {name}"] = direction.vector
    number = trainer.accelerator.process_index
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / f"weights-{number}.safetensors")
    (folder / f"history-{number}.json").write_text(json.dumps(trainer.state.log_history))


def main(model: str, folder: str) -> None:
    """Make all runs; one that fails leaves its traceback."""
    torch.set_num_threads(1)
    gc.freeze()  # every run begins with a collection, which would walk through all that the imports made
    for name, run in json.loads((Path(folder) / "runs.json").read_text()).items():
        place = Path(folder) / name
        try:
            carry_out(model, place, run)
        except Exception:
            place.mkdir(parents=True, exist_ok=True)
            (place / f"error-{os.environ.get('RANK', 0)}.txt").write_text(traceback.format_exc())


if __name__ == "__main__":
    main(*sys.argv[1:])
