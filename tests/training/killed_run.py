"""Runs killed at chosen moments, each resumed until it ends: `python killed_run.py MODEL FOLDER SEED KILLS`.

The libraries are imported once, and every attempt is a fork of that process. An unbroken run goes first; what it and
the chains of killed attempts left is in FOLDER, and what happened in `kills.json`.
"""

import gc
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from dualselect import DualSelectConfig, DualSelectTrainer
from dualselect.methods import DualSelect
from dualselect.selection import Pool, scan
from dualselect.training import checkpoint
from dualselect.training.record import RunRecord
from dualselect.training.step import SelectiveStep

WARM_UP = 2
#: What a run is at when it is killed; "half a file" cuts the last file of a checkpoint that was written.
KINDS = ("half a file", "checkpoint", "scan", "step", "refresh", "warm-up", "set-up", "file")


class Moments:
    """Counts the moments of an attempt by kind, and kills the process at the one that was chosen."""

    def __init__(self, folder: Path, kind: str, number: int) -> None:
        self.folder, self.kind, self.number = str(folder), kind, number
        self.seen: Counter[str] = Counter()

    def reach(self, kind: str, written: str | None = None) -> None:
        """Pass a moment, after `written` was written."""
        self.seen[kind] += 1
        if kind == self.kind and self.seen[kind] == self.number:
            if written is not None:
                os.truncate(written, os.path.getsize(written) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def of_python(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note files that Python opens for writing in the run folder, and those that it renames."""
        if event == "os.rename" or (event == "open" and "r" not in str(arguments[1] or "r")):
            path = str(arguments[0])
            if path.startswith(self.folder):
                self.reach("checkpoint" if "checkpoint-" in path else "file")

    def watch(self) -> None:
        """Note calls from now on."""
        sys.addaudithook(self.of_python)
        measured, table, step = Pool.measured, RunRecord.table, SelectiveStep.__call__

        def measure(*arguments: Any, **options: Any) -> Any:
            self.reach("scan")
            return measured(*arguments, **options)

        def write_table(*arguments: Any, **options: Any) -> None:
            self.reach("refresh")
            table(*arguments, **options)
            self.reach("refresh")

        def take_step(of: Any, batch: Any) -> Any:
            self.reach("warm-up" if of.run.step < WARM_UP else "step")
            return step(of, batch)

        Pool.measured, RunRecord.table, SelectiveStep.__call__ = measure, write_table, take_step  # type: ignore
        self._watch_file(torch, "save", 1)
        self._watch_file(safetensors.torch, "serialize_file", 1)

    def _watch_file(self, module: Any, name: str, place: int) -> None:
        write = getattr(module, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            result = write(*arguments, **options)
            path = str(options.get("filename", arguments[place] if len(arguments) > place else ""))
            if "checkpoint-" in path:
                self.reach("half a file", written=path)
                self.reach("checkpoint")
            return result

        setattr(module, name, watched)


def samples(count: int, word: str) -> Dataset:
    """Return chats whose answers have unequal lengths."""
    rows = [(f"{word}{n}", f"{word} {n}?", " ".join([word] * (1 + n * 7 % 5))) for n in range(count)]
    return Dataset.from_list(
        [
            {
                "id": name,
                "prompt": [{"role": "user", "content": asked}],
                "completion": [{"role": "assistant", "content": told}],
            }
            for name, asked, told in rows
        ]
    )


def make(model: Path, folder: Path) -> DualSelectTrainer:
    """Return the trainer of the run, with dropout, so that the random state matters."""
    settings = {
        "output_dir": str(folder),
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 1,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "scan_tokens": 60,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return DualSelectTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        processing_class=AutoTokenizer.from_pretrained(model),
        args=DualSelectConfig(**settings),
        train_dataset=samples(24, "count"),
        reference_dataset=samples(9, "no"),
        method=DualSelect(task_warmup_steps=WARM_UP, refresh="steps", refresh_every=2),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.2),
    )


def attempt(model: Path, folder: Path, moments: Moments, log: Path) -> None:
    """Run or continue to the end, unless the process is killed on the way; says where it continued from."""
    moments.watch()
    trainer = make(model, folder)
    moments.reach("set-up")
    last = checkpoint.last_whole_checkpoint(folder)
    with log.open("a") as file:
        file.write(json.dumps(None if last is None else last.name) + "\n")
    moments.reach("set-up")
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.save_model(str(folder))
    (folder / "seen.json").write_text(json.dumps(moments.seen))


def fork(model: Path, folder: Path, kind: str, number: int) -> bool:
    """Make an attempt in a process of its own, and return whether it was killed where it should be.

    Raises:
        RuntimeError: It failed otherwise.
    """
    child = os.fork()
    if child == 0:
        try:
            attempt(model, folder, Moments(folder, kind, number), folder.with_suffix(".log"))
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status != 0:
        raise RuntimeError(f"{folder.name}, to be killed at {kind} {number}: status {status}")
    return False


def main(model: str, folder: str, seed: str, kills: str) -> None:
    """Make the unbroken run, then chains of killed attempts until there were as many kills as asked for."""
    torch.set_num_threads(1)
    scan._BATCHES_PER_PART = 2  # type: ignore[misc]
    gc.freeze()
    place, rng = Path(folder), random.Random(int(seed))
    fork(Path(model), place / "unbroken", "", 0)
    there = json.loads((place / "unbroken" / "seen.json").read_text())
    killed: list[tuple[str, str, int]] = []
    chain = 0
    while len(killed) < int(kills):
        name, is_whole = f"chain-{chain}", False
        while not is_whole:
            # The first of a kind, where few are left, would otherwise be rare.
            kind = KINDS[len(killed) % len(KINDS)] if len(killed) < int(kills) else ""
            number = rng.randint(1, max(there.get(kind, 1) // 2, 1))
            is_whole = not fork(Path(model), place / name, kind, number)
            if not is_whole:
                killed.append((name, kind, number))
        chain += 1
    (place / "kills.json").write_text(json.dumps(killed))


if __name__ == "__main__":
    main(*sys.argv[1:])
