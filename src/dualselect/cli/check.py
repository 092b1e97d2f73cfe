"""`dualselect check`: how a run would read its data, before anything is trained."""

from collections.abc import Sequence

HELP = "show how a run would read its data"
ABOUT = """Show how a run would read its data. It takes what `dualselect train` takes, needs no model but its
tokenizer, trains nothing and writes nothing. Exit code 2 means that training would stop.

  dualselect check --config examples/gsm8k.yaml
  dualselect check --task data/task.jsonl --references data/safe.jsonl --model my/model

For every set: the form that was detected, fields that are not read, one sample as the model sees it with the part that
is learned marked, token counts, duplicate prompts, samples that would be skipped or whose answers have no end. Between
sets: prompts that they share."""


def run(argv: Sequence[str]) -> int:
    """Print the report; returns the exit code, 2 if training would stop."""
    from dualselect.experiments.check import check
    from dualselect.experiments.settings import parse_settings

    return 0 if check(parse_settings(argv, "check", ABOUT)) else 2
