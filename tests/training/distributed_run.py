"""Small runs, one after the other, alone or as one of several processes: `python distributed_run.py MODEL FOLDER`.

The file `runs.json` in FOLDER says which, by name; each leaves its outcome in a folder of its own.
"""

import gc
import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from dualselect import DualSelectConfig, DualSelectTrainer
from dualselect.cli.main import main as dualselect
from dualselect.distributed import whole
from dualselect.selection import scan
from dualselect.training import record_conflicts

_FSDP2 = {"FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}  # as accelerate's launcher sets it
SPOILT = "~"  # a token that is looked up as not a number, where a run asks for it


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


class Death(TrainerCallback):
    """Ends a process without a word after a step, as a machine that fails does."""

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 2:
            os._exit(3)


@contextmanager
def kept_passes(breaks: int) -> Iterator[list[int]]:
    """Keep what refreshes measure after every batch, and yield how many samples each of them found kept.

    Args:
        breaks: Which refresh is to break off after its first batch, counted from 1; 0 for none.
    """
    found: list[int] = []
    read, write = scan.Parts.read, scan.Parts.write

    def counting(parts: scan.Parts) -> scan.Columns:
        columns = read(parts)
        found.append(len(columns.get("row", ())))
        return columns

    def breaking(parts: scan.Parts, columns: scan.Columns) -> None:
        write(parts, columns)
        if len(found) == breaks:
            raise RuntimeError("broken off")

    with (
        patch.object(scan, "_BATCHES_PER_PART", 1),
        patch.object(scan.Parts, "read", counting),
        patch.object(scan.Parts, "write", breaking),
    ):
        yield found


def allow_fsdp_on_cpu() -> None:
    """Let accelerate shard on a CPU too, which PyTorch can: by itself it leaves FSDP out there."""
    begin = AcceleratorState.__init__

    def with_fsdp(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = with_fsdp


def make(model: str, folder: Path, run: dict[str, Any]) -> SFTTrainer:
    """Return the trainer of a run.

    Args:
        model: Folder of the model and its tokenizer.
        folder: Output folder.
        run: Settings that differ from those here, and `model` (another folder), `tasks` and `references` (how many
            samples), `answered` (whether references have answers), `spoilt` (which task sample loses its finite loss),
            `full` (whether all parameters are trained), `evaluated` (on how many samples it is evaluated while it
            trains), `fsdp` (whether weights are sharded, if the launcher does not say), `dies` (which process ends
            after two steps), `trl` (whether TRL's own trainer is to run).
    """
    torch.manual_seed(0)
    run = dict(run)
    model = run.pop("model", model)
    tasks, spoilt, is_trl = run.pop("tasks", 32), run.pop("spoilt", None), run.pop("trl", False)
    references = samples(run.pop("references", 7), "no")
    evaluated = samples(run.pop("evaluated"), "who") if "evaluated" in run else None
    if not run.pop("answered", True):
        references = references.remove_columns("completion")
    dies, is_full = run.pop("dies", None), run.pop("full", False)
    if "fsdp" in run:
        os.environ |= {**_FSDP2, "ACCELERATE_USE_FSDP": str(run.pop("fsdp"))}
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
        (token,) = tokenizer(SPOILT)["input_ids"]
        # The weights stay finite, since a run does not save others.
        weights.get_input_embeddings().register_forward_hook(
            lambda module, args, output: output.masked_fill((args[0] == token)[..., None], torch.nan)
        )
    data = samples(tasks, "count", spoilt)
    given = {
        "model": weights,
        "processing_class": tokenizer,
        "peft_config": None if is_full else LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
    }
    if is_trl:
        return SFTTrainer(args=SFTConfig(**settings), train_dataset=data.remove_columns("id"), **given)
    return DualSelectTrainer(
        args=DualSelectConfig(**settings),
        train_dataset=data,
        reference_dataset=references,
        eval_dataset=evaluated,
        callbacks=[Death()] if dies is not None and str(dies) == os.environ["RANK"] else None,
        **given,
    )


def carry_out(model: str, folder: Path, run: dict[str, Any]) -> None:
    """Make a run and save the trainable weights of this process, with the directions, and the log.

    A run may also have `resume` (a checkpoint), `evaluates` (whether the model is evaluated before training) and
    `breaks` (which refresh ends the run, each being kept batch by batch).
    """
    run = dict(run)
    resume, evaluates, breaks = run.pop("resume", False), run.pop("evaluates", False), run.pop("breaks", None)
    trainer = make(model, folder, run)
    if evaluates:
        trainer.evaluate(trainer.train_dataset.select(range(4)))
    with nullcontext() if breaks is None else kept_passes(breaks) as found:
        trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(folder / "final"))
    parameters = dict(trainer.model.named_parameters())
    weights = {name: whole(param.detach()).clone() for name, param in parameters.items() if param.requires_grad}
    if isinstance(trainer, DualSelectTrainer):
        record_conflicts(trainer)
        for name, direction in trainer.method.directions().items():
            weights |= {f"direction {name} {part}": values for part, values in direction.state_dict().items()}
    number = trainer.accelerator.process_index
    shares = {name: param.to_local().numel() for name, param in parameters.items() if isinstance(param, DTensor)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"shares-{number}.json").write_text(json.dumps(shares))
    if found is not None:
        (folder / f"kept-{number}.json").write_text(json.dumps(found))
    save_file(weights, folder / f"weights-{number}.safetensors")
    (folder / f"history-{number}.json").write_text(json.dumps(trainer.state.log_history))


def main(model: str, folder: str) -> None:
    """Make all runs, some of which are whole commands; one that fails leaves its traceback."""
    torch.set_num_threads(1)
    gc.freeze()  # every run begins with a collection, which would walk through all that the imports made
    for name, run in json.loads((Path(folder) / "runs.json").read_text()).items():
        place = Path(folder) / name
        if "machine" in run:  # every process has a folder of its own to work in, as on machines that share none
            machine = Path(folder) / run["machine"] / os.environ["RANK"]
            machine.mkdir(parents=True, exist_ok=True)
            os.chdir(machine)
        try:
            if "command" in run:
                assert dualselect(run["command"]) == 0
            else:
                carry_out(model, place, run)
        except Exception:
            place.mkdir(parents=True, exist_ok=True)
            (place / f"error-{os.environ.get('RANK', 0)}.txt").write_text(traceback.format_exc())


if __name__ == "__main__":
    allow_fsdp_on_cpu()
    main(*sys.argv[1:])
