"""`dualselect continual`: methods go through a stream of tasks; what is left of earlier ones, in one matrix."""

import argparse
from collections.abc import Sequence

from dualselect.settings.parser import CommandParser

HELP = "train methods on a stream of tasks, and measure what they forget"
ABOUT = """Train every method on a stream of tasks, one after the other, and measure all tasks after every one.

  dualselect continual --config examples/continual.yaml
  dualselect continual --config examples/continual.yaml --methods sft dualselect --seeds 0 --learning_rate 1e-3

The YAML file takes what `dualselect train` takes but the task, the references and the seed, and besides:

  stream:       tasks in their order, each {name: NAME, task: SOURCE, test: SOURCE}
  memory:       what is kept: size (samples of earlier tasks), policy (reservoir, conflict), safety (safe answers)
  safety:       source of the safe answers, which every stage has among its references
  neutral:      file of neutral text, whose cross-entropy is measured before and after
  singles:      whether every task is also learned alone, for forward transfer (default: true)
  keep_models:  whether the model after the last stage is kept beside the adapters (default: false)
  methods, seeds, baseline, evaluate: as for `dualselect compare`

Records with text and label are tested by the likelihood of the labels, others by the number that answers end in. A
stage is a run folder, OUTPUT_DIR/cells/LABEL-seedN/1-NAME; it trains a fresh adapter on the model with those of the
stages before merged in. Stages that are done are skipped, one that was interrupted continues. OUTPUT_DIR gets
matrix.parquet (every score after every stage), measures.parquet (average, transfer, forgetting, with 95% intervals),
results.parquet (every value) and stream.json. The exit code is 0 if all is done, else 1."""

_EPILOG = "Every setting of `dualselect train` is a flag here too; `dualselect train --help-all` lists them."


def run(argv: Sequence[str]) -> int:
    """Do what the arguments ask for; returns the exit code, 1 if a stage is not done."""
    given, flags = _command_flags(argv)

    from dualselect.continual.run import run as run_stream
    from dualselect.continual.settings import read_plan

    return 0 if run_stream(read_plan(given, flags), given.cell) else 1


def _command_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the command's own flags, and the others, which are settings."""
    parser = CommandParser(
        "continual",
        ABOUT,
        usage="dualselect continual --config FILE [--methods NAME ...] [--seeds N ...] [--SETTING VALUE ...]",
        epilog=_EPILOG,
    )
    parser.add_grid_flags()
    parser.add_argument("--cell", metavar="LABEL:SEED", help="run this cell alone, and gather nothing")
    return parser.parse_known_args(argv)
