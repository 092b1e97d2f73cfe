"""A small run, alone or as one of several processes: `python distributed_run.py MODEL OUTPUT BATCH_SIZE OPTIONS`."""

import json
import os
import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dualselect import DualSelectConfig, DualSelectTrainer
from dualselect.training import record_conflicts


def samples(count: int, word: str) -> Dataset:
    """Return chats whose answers have unequal lengths."""
    return Dataset.from_list(
        [
            {
                "id": f"{word}{number}",
                "prompt": [{"role": "user", "content": f"{word} {number}?"}],
                "completion": [{"role": "assistant", "content": " ".join([word] * (1 + number * 7 % 5))}],
            }
            for number in range(count)
        ]
    )


def main(model: str, output: str, batch_size: str, options: str) -> None:
    """Train six steps and save the trainable weights and the reference direction."""
    torch.manual_seed(0)
    trainer = DualSelectTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=DualSelectConfig(
            output_dir=output,
            max_steps=6,
            per_device_train_batch_size=int(batch_size),
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=False,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            ddp_backend="gloo" if "WORLD_SIZE" in os.environ else None,
            disable_tqdm=True,
            **json.loads(options),
        ),
        train_dataset=samples(32, "count"),
        reference_dataset=samples(7, "no"),
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    )
    trainer.train()
    record_conflicts(trainer)
    if trainer.is_world_process_zero():
        weights = {name: param.detach().clone() for name, param in trainer.run.params.items()}
        for name, direction in trainer.method.directions().items():
            weights[f"direction {name}"] = direction.vector
        save_file(weights, f"{output}/weights.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
