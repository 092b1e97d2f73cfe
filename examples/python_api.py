"""Fine-tune with DualSelectTrainer from Python: `python examples/python_api.py`.

It is TRL's SFTTrainer with `reference_dataset` and `method` besides, so a script that uses SFTTrainer changes in two
lines. The data are the small sets beside this file; any data set in one of TRL's forms does.
"""

from pathlib import Path

from datasets import load_dataset
from peft import LoraConfig

from dualselect import DualSelectConfig, DualSelectTrainer
from dualselect.methods import DualSelect
from dualselect.training import record_conflicts

DATA = Path(__file__).parent / "data"


def samples(name: str):
    """Return one of the example sets, with columns id, category, prompt and completion as chat messages."""

    def as_chat(row):
        return {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }

    return load_dataset("json", data_files=str(DATA / f"{name}.jsonl"), split="train").map(as_chat)


trainer = DualSelectTrainer(
    model="HuggingFaceTB/SmolLM2-135M-Instruct",  # or another hub id, a local folder, a model
    args=DualSelectConfig(
        output_dir="runs/python-api",
        max_steps=8,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        max_length=256,
        logging_steps=1,
        report_to="none",
    ),
    train_dataset=samples("task"),
    reference_dataset=samples("safe"),
    eval_dataset={"task": samples("task-test"), "probe": samples("safe-test")},
    method=DualSelect(rho=0.3, preservation_loss="kl", task_warmup_steps=2),
    peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]),
)
trainer.train()
trainer.save_model()
record_conflicts(trainer)  # for `dualselect report runs/python-api`: what the samples dropped most conflict with
print(trainer.evaluate())
