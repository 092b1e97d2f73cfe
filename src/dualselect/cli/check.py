"""`dualselect check`: how a run would read its data, before anything is trained."""

from collections.abc import Sequence

HELP = "show how a run would read its data"
ABOUT = """Show how a run would read its data, and what it would cost. It takes what `dualselect train` takes, needs no
model but its tokenizer, trains nothing and writes nothing. Exit code 2 means that training would stop.

  dualselect check --config examples/gsm8k.yaml
  dualselect check --config examples/gsm8k.yaml --probe
  dualselect check --task data/task.jsonl --references data/safe.jsonl --model my/model

For every set: the form that was detected, fields that are not read, one sample as the model sees it with the part that
is learned marked, token counts, duplicate prompts, samples that would be skipped or whose answers have no end. Between
sets: prompts that they share. Then updates, tokens, and the share of refreshes in what is read. --probe also says time
and memory: it loads the model and makes a few updates, with the method's refreshes, in a temporary folder."""


def run(argv: Sequence[str]) -> int:
    """Print the report; returns the exit code, 2 if training would stop."""
    from dualselect.experiments.check import check
    from dualselect.experiments.settings import parse_settings
    from dualselect.settings.parser import CommandParser

    parser = CommandParser("check", add_help=False)
    parser.add_argument("--probe", action="store_true")
    given, rest = parser.parse_known_args(argv)
    return 0 if check(parse_settings(rest, "check", ABOUT), with_probe=given.probe) else 2
