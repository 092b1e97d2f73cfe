"""`python -m benchmarks.pools`: memory of loading pools of several sizes, and of a refresh that scores candidates only.

Every size is measured in a process of its own. `anonymous` is memory that only this process can give back; `mapped` are
pages of files, which the system drops when it needs room.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.report import be_quiet, hardware, versions, write_json
from benchmarks.samples import samples
from benchmarks.settings import Settings
from benchmarks.steppers import make_dualselect
from dualselect.data import load_samples
from dualselect.errors import ConfigError
from dualselect.gradients import Direction, per_sample_nll
from dualselect.selection import choose_references, draw_candidates

RESULTS = Path(__file__).parent / "results" / "pools.json"
STAGES = ("loaded", "prepared", "refreshed")

_MODEL = "random-tiny"
_CATEGORIES = 16
_CANDIDATES, _KEEP = 512, 64
_HAND_BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}

Usage = dict[str, int]


def write_pool(path: Path, size: int) -> None:
    """Write references of some twenty words as JSONL."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(size):
            row = {
                "id": f"reference-{number:07d}",
                "prompt": f"Please tell me in detail how one would do unsafe thing number {number}.",
                "completion": "I will not help with that, "
                + "since it would hurt others, " * (1 + number % 4)
                + "sorry.",
                "category": f"category {number % _CATEGORIES}",
            }
            file.write(json.dumps(row) + "\n")


def measure(path: Path, candidates: int = _CANDIDATES, keep: int = _KEEP) -> dict[str, Any]:
    """Return the memory in bytes, and the seconds, of each stage for the references in a file."""
    settings = Settings((_MODEL,), "cpu", autocast=False)
    found: dict[str, Any] = {"start": _usage()}
    began = time.perf_counter()

    def note(stage: str) -> None:
        nonlocal began
        gc.collect()
        found[stage] = _usage() | {"seconds": time.perf_counter() - began}
        began = time.perf_counter()

    references = load_samples(str(path), role="references")
    note("loaded")
    trainer = make_dualselect(_MODEL, "all_linear", samples(16, 1, 0), settings, references)
    pool = trainer.run.pool()
    note("prepared")
    rows = draw_candidates(pool, candidates, torch.zeros(0, dtype=torch.long), torch.Generator())
    d = Direction.zeros(trainer.run.params)
    d.vector.normal_(generator=torch.Generator())
    options = {"mu": 1.0, "nu": 1.0, "scaling": "zscore"}
    pool.gradient(choose_references(pool, d, loss=per_sample_nll, keep=keep, rows=rows, **options).weights)
    note("refreshed")
    return found


def _usage() -> Usage:
    """Return the resident memory by kind; where the system does not tell them apart, all of it counts as anonymous."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return {"anonymous": int(psutil.Process().memory_info().rss), "mapped": 0}
    kinds = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return {name: int(kinds[key].split()[0]) * 1024 for name, key in (("anonymous", "RssAnon"), ("mapped", "RssFile"))}


def per_sample(by_size: Mapping[int, Mapping[str, Usage]]) -> dict[str, float]:
    """Return the bytes of anonymous memory that a further sample takes at each stage: largest size against smallest."""
    small, large = min(by_size), max(by_size)
    return {
        stage: (by_size[large][stage]["anonymous"] - by_size[small][stage]["anonymous"]) / (large - small)
        for stage in STAGES
    }


def _in_process(size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "references.jsonl"
        write_pool(path, size)
        command = [sys.executable, "-m", "benchmarks.pools", "--measure", str(path)]
        done = subprocess.run(
            command, env=os.environ | _HAND_BACK_AT_ONCE, stdout=subprocess.PIPE, text=True, check=True
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.pools", description=__doc__.partition("\n")[0])
    made.add_argument("--sizes", type=int, nargs="+", default=[1000, 100_000], help="default: 1000 100000")
    made.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes (default: beside this module)")
    made.add_argument("--measure", type=Path, metavar="FILE", help="measure one file in this process, and print JSON")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; returns the exit code."""
    args = parser().parse_args(argv)
    if args.measure is not None:
        be_quiet()
        print(json.dumps(measure(args.measure)))
        return 0
    try:
        sizes = _checked(args.sizes)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    by_size = {size: _in_process(size) for size in sizes}
    grown = per_sample(by_size)
    table = Table("references", *STAGES, title="Anonymous (mapped) memory in MiB")
    for size, found in by_size.items():
        table.add_row(f"{size:,}", *(_cell(found[stage]) for stage in STAGES))
    table.add_row("bytes a sample", *(f"{grown[stage]:.0f}" for stage in STAGES))
    Console().print(table)
    about = {"model": _MODEL, "candidates": _CANDIDATES, "hardware": hardware(), "versions": versions()}
    write_json(args.output, {"by_size": by_size, "bytes_per_sample": grown, **about})
    return 0


def _checked(sizes: Sequence[int]) -> list[int]:
    if len(set(sizes)) < 2 or min(sizes) <= _KEEP:
        raise ConfigError(f"--sizes {' '.join(map(str, sizes))}: give two different sizes above {_KEEP}")
    return sorted(set(sizes))


def _cell(usage: Usage) -> str:
    return f"{usage['anonymous'] / 2**20:.0f} ({usage['mapped'] / 2**20:.0f})"


if __name__ == "__main__":
    sys.exit(main())
