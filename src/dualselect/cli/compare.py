"""`dualselect compare`: methods by seeds, trained and evaluated alike, in one table."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualselect.experiments import Grid

ABOUT = """Compare methods: train and evaluate every method under every seed, and gather all of it into tables.

  dualselect compare --config examples/compare.yaml
  dualselect compare --config examples/compare.yaml --methods sft dualselect --seeds 0 1 2 --learning_rate 1e-3

The YAML file takes what `dualselect train` takes, and besides:

  methods:    names, or a mapping label: {method: NAME, option: value} for one method with several options
  seeds:      seeds of training
  baseline:   the label that the others are compared with (sft if it is there)
  evaluate:   what is measured: suites, judges, data, limit, seed, max_new_tokens, batch_size

Flags win over the file. Each cell lies in OUTPUT_DIR/cells/LABEL-seedN, a run folder like any other; the model that all
of them begin with is evaluated once. Cells that are done are skipped, one that was interrupted goes on from its last
checkpoint, one that failed is reported and tried again by the next run. OUTPUT_DIR gets table.md, table.tex,
estimates.parquet (means and differences with 95% intervals), results.parquet (every value) and compare.json;
`dualselect report OUTPUT_DIR` makes a page of them. The exit code is 0 if all cells are done, else 1."""

_EPILOG = "Every setting of `dualselect train` is a flag here too; `dualselect train --help-all` lists them."


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`; its many flags are only made when it runs."""
    parser = subparsers.add_parser("compare", help="train and evaluate methods over seeds, in one table", unread="argv")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the arguments ask for; returns the exit code, 1 if a cell is not done."""
    given, flags = _command_flags(args.argv)
    if not given.print_commands:
        return _run(given, flags)
    from dualselect.experiments.grid_settings import read_grid

    for command in commands(args.argv, read_grid(given, flags)):
        print(command)
    return 0


def commands(argv: Sequence[str], grid: "Grid") -> list[str]:
    """Return one shell command for the start and for every cell, in any order, and last the one that gathers."""
    base = ["dualselect", "compare", *(word for word in argv if word != "--print-commands")]
    names = [grid.start_folder.name, *(cell.name for cell in grid.cells)]
    return [shlex.join([*base, "--cell", name]) for name in names] + [shlex.join([*base, "--gather"])]


def _run(given: argparse.Namespace, flags: Sequence[str]) -> int:
    from dualselect import experiments
    from dualselect.cli.train import train
    from dualselect.experiments.grid_settings import evaluation_of, read_grid

    grid = read_grid(given, flags)
    if given.gather:
        return _gather(grid)
    evaluate = evaluation_of(grid)
    try:
        if given.cell == grid.start_folder.name:
            experiments.run_start(grid, evaluate)
            return 0
        if given.cell is not None:
            state = experiments.run_cell(grid.cell(given.cell), grid, lambda cell: train(cell.run()), evaluate)
            return 0 if state.status == "done" else 1
        experiments.run_grid(grid, lambda cell: train(cell.run()), evaluate)
    except KeyboardInterrupt:
        print("dualselect: the same command goes on from here")
        raise
    return _gather(grid)


def _gather(grid: "Grid") -> int:
    from dualselect.experiments import gather
    from dualselect.experiments.gather import MARKDOWN_FILE

    comparison = gather(grid)
    print((grid.folder / MARKDOWN_FILE).read_text(encoding="utf-8"))
    print(f"Written to {grid.folder}; `dualselect report {grid.folder}` makes a page of it")
    return 1 if comparison.undone else 0


def _command_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the command's own flags, and the others, which are settings."""
    from dualselect.settings.parser import CommandParser

    parser = CommandParser(
        prog="dualselect compare",
        usage="dualselect compare --config FILE [--methods NAME ...] [--seeds N ...] [--SETTING VALUE ...]",
        description=ABOUT,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML file of settings")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="labels of the file, or names of methods")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds of training")
    parser.add_argument("--baseline", metavar="NAME", help="what the others are compared with")
    parser.add_argument("--output_dir", "--output-dir", metavar="FOLDER", help="where everything goes")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--print-commands", action="store_true", help="print a command for every cell, for a cluster, and stop"
    )
    what.add_argument("--cell", metavar="LABEL:SEED", help="run this cell alone, or `start`, and gather nothing")
    what.add_argument("--gather", action="store_true", help="make the tables of the cells that are done, and stop")
    return parser.parse_known_args(argv)
