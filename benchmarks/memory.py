"""Peak memory of a plain step and of a refresh, each in a process of its own.

On CUDA the peak is `torch.cuda.max_memory_allocated`. On a CPU it is the resident set, sampled every two milliseconds;
the process tells glibc to return freed blocks at once, so that the resident set follows what is in use and
not what was in use once. `growth` is the peak above what was there before: weights, optimizer state, data, libraries.
Libraries keep what they compile for a shape, some 15 MiB each on a CPU, in plain training as in a refresh. Lengths are
therefore padded to multiples of 64, and each is run once before the measurement begins.

LoRA is on all linear layers, the harder case. The plain steps run over shuffled batches, the first of which contains
the longest sample of the pool; the refresh is the method's own, with scoring, selection and the direction.
"""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from benchmarks.report import be_quiet
from benchmarks.settings import Settings
from benchmarks.steppers import TrainerStep, batches_of, make_dualselect, make_sft, training_samples
from dualselect.selection import measures

_SFT_STEPS = 4
_LENGTH_STEP = 64
_SAMPLING_SECONDS = 0.002
_HAND_BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def peak_memory(model: str, action: str, pool: int, settings: Settings) -> dict[str, Any]:
    """Return `before`, `peak` and `growth` in bytes, and `seconds`, of an action in a fresh process.

    Args:
        model: Name of the model.
        action: `sft` for plain steps, `refresh` for a refresh of the whole pool.
        pool: Number of samples.
        settings: Settings of the whole benchmark.
    """
    job = json.dumps({"model": model, "action": action, "pool": pool, "settings": asdict(settings)})
    outcome = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", job],
        env=os.environ | _HAND_BACK_AT_ONCE,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured: dict[str, Any] = json.loads(outcome.stdout.splitlines()[-1])
    return measured


def _measure(model: str, action: str, pool: int, settings: Settings) -> dict[str, Any]:
    dataset = training_samples(model, pool, settings.memory_problems_per_sample, settings)
    make: Callable[..., Any] = make_sft if action == "sft" else make_dualselect
    trainer = make(model, "all_linear", dataset, settings, pad_to_multiple_of=_LENGTH_STEP)
    lengths = [len(row) for row in trainer.train_dataset["input_ids"]]
    work = (_plain_steps if action == "sft" else _refresh)(trainer, lengths, settings)
    gc.collect()
    start = time.perf_counter()
    before, peak = (_cuda_peak if settings.device == "cuda" else _resident_peak)(work)
    seconds = time.perf_counter() - start
    return {"before": before, "peak": peak, "growth": peak - before, "seconds": seconds, "longest": max(lengths)}


def _one_batch_a_length(lengths: Sequence[int], batch_size: int) -> list[int]:
    """Return indices such that each run of `batch_size` of them has one padded length, and none is missing."""
    by_length = {-(-length // _LENGTH_STEP): index for index, length in enumerate(lengths)}
    return [index for index in by_length.values() for _ in range(batch_size)]


def _plain_steps(trainer: Any, lengths: Sequence[int], settings: Settings) -> Callable[[], None]:
    stepper = TrainerStep(trainer)
    for batch in batches_of(trainer, _one_batch_a_length(lengths, settings.batch_size), settings.batch_size):
        stepper.step(batch)
    longest_first = sorted(range(len(lengths)), key=lambda index: lengths[index] != max(lengths))
    batches = batches_of(trainer, longest_first[: _SFT_STEPS * settings.batch_size], settings.batch_size)

    def work() -> None:
        for batch in batches:
            stepper.step(batch)

    return work


def _refresh(trainer: Any, lengths: Sequence[int], settings: Settings) -> Callable[[], None]:
    pool, order = trainer.run.pool(), _one_batch_a_length(lengths, settings.batch_size)
    # A plain step makes the optimizer's state, which exists at a refresh in training.
    TrainerStep(trainer).step(batches_of(trainer, order[: settings.batch_size], settings.batch_size)[0])
    small = pool.subset(order)
    direction = small.gradient(torch.full((len(order),), 1 / len(order)))
    small.scan([measures.loss(), measures.norm(), measures.cosine("cosine", direction)])
    return lambda: trainer.method.begin_step(trainer.run)


def _cuda_peak(work: Callable[[], None]) -> tuple[int, int]:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return before, torch.cuda.max_memory_allocated()


def _resident_peak(work: Callable[[], None]) -> tuple[int, int]:
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SAMPLING_SECONDS):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return before, peak


if __name__ == "__main__":
    be_quiet()
    job = json.loads(sys.argv[1])
    print(json.dumps(_measure(job["model"], job["action"], job["pool"], Settings(**job["settings"]))))
