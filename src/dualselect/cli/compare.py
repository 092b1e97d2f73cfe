"""`dualselect compare`: methods by seeds, trained and evaluated alike, in one table."""

import argparse
from collections.abc import Sequence

from dualselect.settings.parser import CommandParser

HELP = "train and evaluate methods over seeds, in one table"
ABOUT = """Compare methods: train and evaluate every method under every seed, and gather all of it into tables.

  dualselect compare --config examples/compare.yaml
  dualselect compare --config examples/compare.yaml --methods sft dualselect --seeds 0 1 2 --learning_rate 1e-3

The YAML file takes what `dualselect train` takes, and in addition:

  methods:    names, or a mapping label: {method: NAME, option: value} for one method with several options
  seeds:      seeds of training
  baseline:   the label that the others are compared with (sft if it is one of them)
  evaluate:   what is measured: suites, judges, data, limit, seed, max_new_tokens, batch_size
  strength:   options with several values, as {rho: [0.1, 0.3, 1]}: a cell for each value, for every method that has the
              option; {dualselect: {rho: [0.1, 1]}} for one method, in place of the general entry
  validation: prompts of each suite by which strengths are chosen, as a share or a count (default 0.3)
  tune:       safety and utility to choose by (SUITE or SUITE:METRIC), margin (utility that may be lost against plain
              SFT, default 0.02) and reference (safety and utility from which hypervolume is measured)

With a strength, each method is chosen on the validation prompts: the safest strength among those that keep utility.
Tables and figures show the other prompts alone, and the frontier of all strengths.

Flags win over the file. Each cell is in OUTPUT_DIR/cells/LABEL-seedN (LABEL-STRENGTH-seedN), a run folder like any
other; the model that all of them begin with is evaluated once. Cells that are done are skipped, one that was
interrupted continues from its last checkpoint, one that failed is reported and tried again by the next run. OUTPUT_DIR
gets table.md, table.tex, estimates.parquet (means and differences with 95% intervals), results.parquet (every value)
and compare.json; with a strength also frontier.json, frontier.csv and figure-frontier.pdf, .svg and .png;
`dualselect report OUTPUT_DIR` makes a page of them. The exit code is 0 if all cells are done, else 1."""

_EPILOG = "Every setting of `dualselect train` is a flag here too; `dualselect train --help-all` lists them."


def run(argv: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code, 1 if a cell is not done."""
    given, flags = _command_flags(argv)

    from dualselect.experiments import compare
    from dualselect.experiments.grid_settings import read_grid

    grid = read_grid(given, flags)
    if given.print_commands:
        print("\n".join(compare.commands(argv, grid)))
        return 0
    if given.gather:
        return 0 if compare.show(grid) else 1
    return 0 if compare.run(grid, given.cell) else 1


def _command_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the command's own flags, and the others, which are settings."""
    parser = CommandParser(
        "compare",
        ABOUT,
        usage="dualselect compare --config FILE [--methods NAME ...] [--seeds N ...] [--SETTING VALUE ...]",
        epilog=_EPILOG,
    )
    parser.add_grid_flags()
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--print-commands", action="store_true", help="print a command for every cell, for a cluster, and stop"
    )
    what.add_argument(
        "--cell", metavar="LABEL[:STRENGTH]:SEED", help="run this cell alone, or `start`, and gather nothing"
    )
    what.add_argument("--gather", action="store_true", help="make the tables of the cells that are done, and stop")
    return parser.parse_known_args(argv)
