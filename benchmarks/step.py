"""`python -m benchmarks.step`: what a DualSelect step and a refresh cost beside a plain TRL SFT step."""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.memory import peak_memory
from benchmarks.models import MODEL_NAMES, check_model, takes_pool
from benchmarks.ratios import model_ratios, round_ratios, targets, worst_ratios
from benchmarks.report import be_quiet, hardware, ratio_table, versions, write_json
from benchmarks.settings import DEFAULT_MODELS, LORA_TARGETS, Settings
from benchmarks.speed import measure_speed
from dualselect.errors import ConfigError, DualSelectError

RESULTS = Path(__file__).parent / "results" / "step.json"

_MEANINGS = "\n".join(f"  {name:<26} {target.meaning}" for name, target in targets((256, 4096)).items())
_ABOUT = f"""Measure a DualSelect step and a reference refresh against a plain step of TRL's SFTTrainer.

Speed: TRL's trainer, ours with a method and without one (the same loss, no per-sample gradients), and the same
algorithm written one sample at a time, step in turn in one process on the same batches; a ratio is the median over
rounds of each round's ratio. A step is a whole optimizer step with a reference direction in place: forward, per-sample
gradients, selection, correction, clipping, optimizer. A refresh is timed beside plain steps on the same samples. With
--run-steps, whole runs are timed too. Memory: a refresh and plain steps each run in a process of their own.
The base weights are bf16 and the LoRA fp32, under TRL's own bf16 autocast unless --no-autocast is given; on a CPU that
emulates bf16 everything is fp32.

The ratios:
{_MEANINGS}

Models: {", ".join(MODEL_NAMES)}. Random ones have the shapes of known models and need no download.

Written to {RESULTS.parent.name}/{RESULTS.name} beside this module: `ratios` (each for the model where it is worst),
every repeat, settings, hardware and versions. The default takes about an hour on two free cores.

examples:
  python -m benchmarks.step --quick                      does everything work? (its figures mean little)
  python -m benchmarks.step --models smollm2 --rounds 15 one model, more repeats
  python -m benchmarks.step --models random-8b           on a CUDA GPU"""

_console = Console(stderr=True)


def measure(settings: Settings) -> dict[str, Any]:
    """Return all figures and ratios; progress goes to stderr."""
    start = time.perf_counter()
    result: dict[str, Any] = {
        "hardware": hardware(),
        "versions": versions(),
        "settings": asdict(settings),
        "seed": settings.seed,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    # Memory first: its processes should have the machine, and a GPU's memory, to themselves.
    memory = {model: _measure_memory(model, settings) for model in settings.models}
    figures = {model: {"speed": _measure_speed(model, settings), "memory": memory[model]} for model in settings.models}
    by_model = {model: model_ratios(measured) for model, measured in figures.items()}
    goals = targets(settings.pools)
    ratios = worst_ratios(by_model, goals)
    return {
        "ratios": ratios,
        "met": {name: goals[name].met(ratio) for name, ratio in ratios.items()},
        "targets": {name: asdict(goals[name]) for name in ratios},
        "ratios_by_model": by_model,
        "figures": figures,
        "seconds": time.perf_counter() - start,
        **result,
    }


def _measure_memory(model: str, settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {"sft": {}, "refresh": {}}
    for pool in settings.pools:
        if not takes_pool(model, pool, settings.device):
            _console.print(f"{model}: a pool of {pool} would take too long here, left out")
            continue
        for action, by_pool in found.items():
            by_pool[str(pool)] = measured = peak_memory(model, action, pool, settings)
            growth, seconds = measured["growth"] / 2**20, measured["seconds"]
            _console.print(f"{model}: memory, {action}, pool of {pool}: grows by {growth:.1f} MiB ({seconds:.0f} s)")
    return found


def _measure_speed(model: str, settings: Settings) -> dict[str, Any]:
    found = {}
    for target in settings.targets:
        _console.print(f"{model}: speed, LoRA on {target.replace('_', ' ')}")
        found[target] = measure_speed(model, target, settings, _console.print)
        gc.collect()
        if settings.device == "cuda":
            torch.cuda.empty_cache()
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.step", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = "; ".join(f"{','.join(names)} on {device}" for device, names in DEFAULT_MODELS.items())
    made.add_argument("--models", help=f"names by comma (default: {defaults})")
    made.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    made.add_argument("--quick", action="store_true", help="few rounds, small pools, a tiny model unless --models")
    made.add_argument("--rounds", type=int, help="timed rounds of steps (default: 7, or 24 on cuda)")
    made.add_argument("--slow-rounds", type=int, help="timed rounds of refreshes and loops (default: 3, or 8 on cuda)")
    made.add_argument("--batches", type=int, help="different batches; a refresh is of all (default: 3, or 8 on cuda)")
    made.add_argument("--batch-size", type=int, help="samples in a batch (default: 8)")
    made.add_argument("--pools", help="pool sizes for memory, by comma (default: 256,4096)")
    made.add_argument("--no-autocast", dest="autocast", action="store_false", default=None, help="no bf16 autocast")
    made.add_argument(
        "--gradient-checkpointing", action="store_true", default=None, help="recompute activations in backward"
    )
    made.add_argument("--length", type=int, help="tokens of every sample, about (default: as drawn)")
    made.add_argument("--four-bits", action="store_true", default=None, help="NF4 base weights, as in QLoRA")
    made.add_argument("--run-steps", type=int, help="updates of whole runs, timed as well (default: none)")
    made.add_argument("--lora", choices=tuple(LORA_TARGETS), help="where the LoRA is (default: both in turn)")
    made.add_argument("--seed", type=int, help="seed of samples, models and adapters (default: 0)")
    made.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes (default: beside this module)")
    return made


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings that the flags ask for.

    Raises:
        ConfigError: A value is out of range, or not possible on this machine.
    """
    settings = Settings.default(args.device)
    if args.models is not None:
        settings = replace(settings, models=tuple(args.models.split(",")))
    if args.quick:
        settings = settings.quick()
    if args.pools is not None:
        settings = replace(settings, pools=_sizes(args.pools))
    given = {field.name: value for field in fields(Settings) if (value := getattr(args, field.name, None)) is not None}
    given = {name: value for name, value in given.items() if name not in ("models", "device", "pools")}
    if args.lora is not None:
        given["targets"] = (args.lora,)
    settings = replace(settings, **given)
    for name in ("rounds", "slow_rounds", "batches", "batch_size", "length"):
        if (value := getattr(settings, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; give at least 1")
    for model in settings.models:
        check_model(model)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no CUDA GPU; leave --device out")
    return settings


def _sizes(text: str) -> tuple[int, ...]:
    if not all(part.isdigit() and int(part) > 0 for part in text.split(",")):
        raise ConfigError(f"--pools is '{text}'; give numbers by comma, such as 256,4096")
    return tuple(int(part) for part in text.split(","))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        settings = settings_of(args)
        be_quiet()
        result = measure(settings)
    except DualSelectError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    by_round = {model: round_ratios(measured) for model, measured in result["figures"].items()}
    Console().print(ratio_table(result["ratios_by_model"], by_round, targets(settings.pools)))
    write_json(args.output, result)
    _console.print(f"{result['seconds']:.0f} s; every figure is in {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
