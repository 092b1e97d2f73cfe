"""Timing the peers in turn, in one process, on the same batches.

Every batch is run once by every peer before the clock starts: the first use of a shape costs a
compilation, on CPU and GPU alike.
"""

import gc
import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import PrinterCallback

from benchmarks.settings import Settings
from benchmarks.steppers import (
    Batch,
    LoopStep,
    TrainerStep,
    agreement,
    batches_of,
    make_dualselect,
    make_plain,
    make_sft,
    new_dualselect,
    new_sft,
    token_count,
    training_samples,
)
from dualselect.methods import DualSelect
from dualselect.selection import hard_top_k, measures

Say = Callable[[str], None]
Times = dict[str, list[float]]


def measure_speed(model: str, target: str, settings: Settings, say: Say) -> dict[str, Any]:
    """Return the raw times, in seconds, of steps and refreshes of a model with LoRA on `target`."""
    count = settings.batch_size * settings.batches
    dataset = training_samples(model, count, settings.problems_per_sample, settings)
    sft = make_sft(model, target, dataset, settings)
    plain = make_plain(model, target, dataset, settings)
    ours = make_dualselect(model, target, dataset, settings)
    ours.method.g_ref = ours.run.pool().gradient(torch.full((count,), 1 / count))
    found = {
        "trainable_parameters": ours.method.g_ref.layout.size,
        "parameters": sum(parameter.numel() for parameter in ours.model.parameters()),
        "step": _time_steps({"sft": sft, "plain": plain, "dualselect": ours}, settings, say),
        "loop": _time_loop(ours, settings, say),
        "refresh": _time_refreshes(sft, plain, ours, settings, say),
    }
    del sft, plain, ours  # whole runs bring models of their own
    return found | {"run": _time_runs(model, target, dataset, settings, say)}


def _shuffled_batches(trainer: Any, settings: Settings) -> list[Batch]:
    order = list(range(len(trainer.train_dataset)))
    random.Random(settings.seed).shuffle(order)
    return batches_of(trainer, order, settings.batch_size)


def _time_steps(trainers: Mapping[str, Any], settings: Settings, say: Say) -> dict[str, Any]:
    peers = {name: TrainerStep(trainer) for name, trainer in trainers.items()}
    batches = {name: _shuffled_batches(trainer, settings) for name, trainer in trainers.items()}
    for name, peer in peers.items():
        for batch in batches[name]:
            peer.step(batch)
    times: Times = {name: [] for name in peers}
    order = list(peers)
    which = [number % settings.batches for number in range(settings.rounds)]
    for batch_number in which:
        # The order changes from round to round, so that no peer always finds the machine warmer.
        order = [*order[1:], order[0]]
        for name in order:
            work = partial(peers[name].step, batches[name][batch_number])
            times[name].append(_seconds(work, settings.device))
        say(_told("step", times, settings.rounds))
    return {
        "seconds": times,
        "batch": which,
        "batches": [_size(batch) for batch in batches["sft"]],
        "syncs": {name: _syncs(partial(peers[name].step, batches[name][0]), settings.device) for name in peers},
    }


def _time_loop(ours: Any, settings: Settings, say: Say) -> dict[str, Any]:
    peers: dict[str, TrainerStep | LoopStep] = {"dualselect": TrainerStep(ours), "loop": LoopStep(ours)}
    batch = _shuffled_batches(ours, settings)[0]
    cosine = agreement(ours, list(peers.values()), batch)
    times: Times = {name: [] for name in peers}
    for _ in range(settings.slow_rounds):
        for name, peer in peers.items():
            times[name].append(_seconds(partial(peer.step, batch), settings.device))
        say(_told("loop", times, settings.slow_rounds))
    return {"seconds": times, "cosine_of_updates": cosine}


def _time_refreshes(sft: Any, plain: Any, ours: Any, settings: Settings, say: Say) -> dict[str, Any]:
    pool, method = ours.run.pool(), ours.method
    peers = {"sft": TrainerStep(sft), "plain": TrainerStep(plain)}
    batches = {name: _shuffled_batches(peer.trainer, settings) for name, peer in peers.items()}

    def steps(name: str) -> None:
        for batch in batches[name]:
            peers[name].step(batch)

    def scan() -> Any:
        return pool.scan([measures.loss(), measures.norm(), measures.cosine("cosine", method.g_ref)])

    weights = hard_top_k(-scan()["loss"], torch.arange(len(pool)), method.references_to_keep(len(pool)))
    weights = weights / weights.sum()
    pool.gradient(weights)
    work: Mapping[str, Callable[[], Any]] = {
        "sft": partial(steps, "sft"),
        "plain": partial(steps, "plain"),
        "score": scan,
        "gradient": partial(pool.gradient, weights),
    }
    times: Times = {name: [] for name in work}
    for _ in range(settings.slow_rounds):
        for name, run in work.items():
            times[name].append(_seconds(run, settings.device))
        say(_told("refresh", times, settings.slow_rounds))
    return {"seconds": times, "references": len(pool), "tokens": token_count(batches["sft"])}


def _time_runs(model: str, target: str, dataset: Any, settings: Settings, say: Say) -> dict[str, float]:
    """Return the seconds of a whole run by TRL's trainer and by ours, with warm-up, two refreshes and logging."""
    if not settings.run_steps:
        return {}
    run = {"max_steps": settings.run_steps}
    method = DualSelect(
        task_warmup_steps=min(2, settings.run_steps // 2), refresh="steps", refresh_every=-(-settings.run_steps // 2)
    )
    found = {}
    for name, make in {
        "sft": lambda: new_sft(model, target, dataset, settings, **run),
        "dualselect": lambda: new_dualselect(model, target, dataset, settings, method, **run),
    }.items():
        trainer: Any = make()
        trainer.remove_callback(PrinterCallback)
        found[name] = _seconds(trainer.train, settings.device)
        del trainer
        gc.collect()
    say(f"  whole run of {settings.run_steps} steps: " + ", ".join(f"{name} {s:.1f} s" for name, s in found.items()))
    return found


def _syncs(work: Callable[[], Any], device: str) -> int | None:
    """Return how often `work` waits for the device; None on a CPU, where nothing does."""
    if device != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in found)


def _size(batch: Batch) -> dict[str, int]:
    rows, length = batch["input_ids"].shape
    supervised = int((batch["labels"] != -100).sum())
    return {"samples": rows, "padded_length": length, "tokens": token_count([batch]), "supervised": supervised}


def _told(what: str, times: Mapping[str, Sequence[float]], rounds: int) -> str:
    done = min(len(values) for values in times.values())
    return f"  {what} {done}/{rounds}: " + ", ".join(f"{name} {values[-1]:.3f} s" for name, values in times.items())


def _seconds(work: Callable[[], Any], device: str) -> float:
    _synchronise(device)
    start = time.perf_counter()
    work()
    _synchronise(device)
    return time.perf_counter() - start


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
