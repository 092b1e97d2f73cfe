"""`dualselect repair`: edit the model of a finished run by a method that acts after training."""

from collections.abc import Sequence

from dualselect.settings.parser import CommandParser, settings_from, share_of

HELP = "edit a finished model by a method"
ABOUT = """Repair a model that is already fine-tuned, without training it again.

  dualselect repair --method antidote --model runs/sft --pools harmful=data/harmful.jsonl --output_dir runs/repaired
  dualselect repair --method antidote --model runs/sft --pools harmful=data/harmful.jsonl --output_dir runs/repaired \\
      --dense_ratio 0.2

The model is a run folder, an adapter, a model folder or a hub id, and stays as it is; the result is a run folder that
`dualselect evaluate` takes. `dualselect methods` shows which methods act after training, with their options."""


def run(argv: Sequence[str]) -> int:
    """Repair as the arguments say; returns the exit code."""
    from dualselect import methods
    from dualselect.experiments.repair import RepairSettings, repair_model

    first = CommandParser("repair", add_help=False)
    first.add_argument("--method", default="antidote")
    method = methods.get(first.parse_known_args(argv)[0].method)
    parser = CommandParser("repair", ABOUT)
    parser.add_argument("--method", default="antidote", help="method that acts after training (default: %(default)s)")
    parser.add_settings(RepairSettings, "what is repaired")
    parser.add_settings(method, f"options of method '{method.name}' (--method NAME --help shows another's)")
    given = parser.parse(argv)
    settings = settings_from(RepairSettings, given)
    output = repair_model(settings, method.from_options(share_of(method, vars(given))))
    print(f"Saved in {output}; {settings.model} is as it was")
    return 0
