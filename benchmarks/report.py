"""The table, and the JSON file with everything that was measured."""

import json
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from rich.table import Table
from rich.text import Text
from transformers.utils import logging

from benchmarks.ratios import Target
from dualselect.files import replacing

_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "dualselect")


def ratio_table(
    by_model: Mapping[str, Mapping[str, float]],
    by_round: Mapping[str, Mapping[str, Sequence[float]]],
    targets: Mapping[str, Target],
) -> Table:
    """Return the table of all ratios, one column per model, with the bound of each and whether it is met.

    Args:
        by_model: Ratios by model and name.
        by_round: The same of each round, where there are rounds; their least and greatest stand in brackets.
        targets: Bounds by name.
    """
    heading = Text("DualSelect against plain TRL SFT, side by side\n[least, greatest] of the rounds")
    table = Table(title=heading, box=None, pad_edge=False, collapse_padding=True)  # two models fit 80 columns
    table.add_column("ratio", no_wrap=True)
    for name in by_model:
        table.add_column(name, justify="right", no_wrap=True)
    for title in ("must", "aim", "met"):
        table.add_column(title, justify="right")
    for name, target in targets.items():
        cells = [_with_spread(ratios.get(name), by_round[model].get(name)) for model, ratios in by_model.items()]
        values = [ratios[name] for ratios in by_model.values() if name in ratios]
        verdict = {True: "[green]yes", False: "[red]no", None: ""}[target.met(target.worst(values)) if values else None]
        table.add_row(name, *cells, _bound(target, target.must), _bound(target, target.aim), verdict)
    return table


def _with_spread(ratio: float | None, rounds: Sequence[float] | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.2f}" if rounds is None else f"{ratio:.2f} [{min(rounds):.2f}, {max(rounds):.2f}]"


def _bound(target: Target, value: float | None) -> str:
    return "" if value is None else f"{'≤' if target.lower_is_better else '≥'} {value:g}"


def hardware() -> dict[str, Any]:
    """Return the hardware and software that the figures were taken on."""
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "platform": platform.platform(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def be_quiet() -> None:
    """Keep the libraries' progress bars and advice out of the benchmark's own output."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content`; the file appears whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
