"""`python -m benchmarks.profiling`: which operations a step's time goes into, by torch.profiler."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.models import MODEL_NAMES, check_model
from benchmarks.report import be_quiet, hardware, versions, write_json
from benchmarks.settings import LORA_TARGETS, Settings
from benchmarks.steppers import TrainerStep, batches_of, make_dualselect, make_plain, make_sft, training_samples
from dualselect.errors import ConfigError, DualSelectError

RESULTS = Path(__file__).parent / "results" / "profile.json"
_ABOUT = f"""Profile optimizer steps of TRL's SFTTrainer, of our trainer without a method, and with DualSelect, on the
same batches. Shown are seconds a step inside each operation, without those it calls; on a GPU, of its kernels.

Models: {", ".join(MODEL_NAMES)}. Written to {RESULTS.parent.name}/{RESULTS.name} beside this module."""

_WIDTH = 44  # letters of an operation's name, so that the table fits beside its figures
Seconds = dict[str, float]  # by operation


def profile_steps(peer: TrainerStep, batches: Sequence[Any], device: str) -> Seconds:
    """Return the seconds a step that each operation takes itself; every batch is run once before."""
    for batch in batches:
        peer.step(batch)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities, acc_events=True) as profiler:
        for batch in batches:
            peer.step(batch)
    found: Seconds = {}
    for event in profiler.key_averages():
        microseconds = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        if microseconds > 0:
            found[event.key] = microseconds / 1e6 / len(batches)
    return found


def measure(model: str, settings: Settings) -> dict[str, Seconds]:
    """Return the profile of each peer."""
    (target,) = settings.targets
    count = settings.batch_size * settings.batches
    dataset = training_samples(model, count, settings.problems_per_sample, settings)
    found = {}
    for name, make in {"sft": make_sft, "plain": make_plain, "dualselect": make_dualselect}.items():
        trainer: Any = make(model, target, dataset, settings)
        if name == "dualselect":
            trainer.method.g_ref = trainer.run.pool().gradient(torch.full((count,), 1 / count))
        batches = batches_of(trainer, range(count), settings.batch_size)
        found[name] = profile_steps(TrainerStep(trainer), batches, settings.device)
        del trainer
    return found


def table_of(found: dict[str, Seconds], rows: int) -> Table:
    """Return the operations that take most, and the sum of the others."""
    table = Table(title="seconds a step")
    table.add_column("operation", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right")
    most = {key: max(times.get(key, 0.0) for times in found.values()) for times in found.values() for key in times}
    shown = sorted(most, key=lambda key: -most[key])[:rows]
    for key in shown:
        table.add_row(key[:_WIDTH], *(f"{times.get(key, 0.0):.3f}" for times in found.values()))
    rest = [sum(seconds for key, seconds in times.items() if key not in shown) for times in found.values()]
    table.add_row("others", *(f"{seconds:.3f}" for seconds in rest), end_section=True)
    table.add_row("all", *(f"{sum(times.values()):.3f}" for times in found.values()))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Profile, print the table and write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profiling", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2", help="name of a model (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--lora", choices=tuple(LORA_TARGETS), default="attention", help="where the LoRA is")
    parser.add_argument("--batches", type=int, default=3, help="batches, each profiled once (%(default)s)")
    parser.add_argument("--rows", type=int, default=12, help="operations to show (%(default)s)")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="where the JSON goes (default: beside this module)"
    )
    args = parser.parse_args(argv)
    try:
        for name in ("batches", "rows"):
            if getattr(args, name) < 1:
                raise ConfigError(f"--{name} is {getattr(args, name)}; give at least 1")
        check_model(args.model)
        default = Settings.default(args.device)
        settings = Settings(
            models=(args.model,),
            device=default.device,
            batches=args.batches,
            autocast=default.autocast,
            targets=(args.lora,),
        )
        be_quiet()
        found = measure(args.model, settings)
    except DualSelectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console().print(table_of(found, args.rows))
    about = {"model": args.model, "lora": args.lora, "hardware": hardware(), "versions": versions()}
    write_json(args.output, about | {"seconds_a_step": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
