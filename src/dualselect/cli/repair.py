"""`dualselect repair`: edit the model of a finished run by a method that acts after training."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualselect.settings.parser import CommandParser, unknown_argument

if TYPE_CHECKING:
    from dualselect.methods import Method

_ABOUT = """Repair a model that was fine-tuned before, without training it again.

  dualselect repair --method antidote --model runs/sft --pools harmful=data/harmful.jsonl --output_dir runs/repaired
  dualselect repair --method antidote --model runs/sft --pools harmful=data/harmful.jsonl --output_dir runs/repaired \\
      --dense_ratio 0.2

The model is a run folder, an adapter, a model folder or a hub id, and stays as it is; the result is a run folder that
`dualselect evaluate` takes. `dualselect methods` shows which methods act after training, with their options."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`; its flags depend on the method and are made when it runs."""
    parser = subparsers.add_parser("repair", help="edit a finished model by a method", unread="arguments")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Repair as the arguments say; returns the exit code."""
    from dualselect.data import load_samples
    from dualselect.models import resolve_model
    from dualselect.reports import write_model_card
    from dualselect.settings.arguments import DataArguments
    from dualselect.training.repair import check_repair, repair

    given, method = parse(args.arguments)
    sources = DataArguments(pools=given.pools).pool_sources
    if given.references is not None:
        sources["references"] = given.references
    output = Path(given.output_dir)
    check_repair(method, sources, output)
    pools = {
        name: load_samples(source, split=given.split, limit=given.limit, role=name)
        for name, source in sources.items()
        if name in method.pools
    }
    repair(given.model, method, pools, output, sources=sources, resolve=resolve_model)
    write_model_card(output)
    print(f"Saved in {output}; {given.model} is as it was")
    return 0


def parse(argv: list[str]) -> "tuple[argparse.Namespace, Method]":
    """Return the arguments of a repair and the method with its options; `--help` prints and exits.

    Raises:
        ConfigError: An unknown, missing or malformed argument.
    """
    from dualselect import methods

    first = CommandParser(prog="dualselect repair", add_help=False)
    first.add_argument("--method", default="antidote")
    method = methods.get(first.parse_known_args(argv)[0].method)
    parser = _parser(method)
    given, rest = parser.parse_known_args(argv)
    if rest:
        raise unknown_argument(rest[0], parser._option_string_actions, f"{parser.prog} --help")
    options = {item.name: getattr(given, item.name) for item in fields(method) if hasattr(given, item.name)}
    return given, method.from_options(options)


def _parser(method: "type[Method]") -> CommandParser:
    from dualselect.options import default_of

    parser = CommandParser(
        prog="dualselect repair", description=_ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="antidote", help="method that acts after training (default: %(default)s)")
    parser.add_argument("--model", required=True, help="run folder, adapter, model folder or hub id")
    parser.add_argument("--output_dir", required=True, help="new folder for the repaired model")
    parser.add_argument(
        "--pools",
        nargs="+",
        default=[],
        metavar="NAME=SOURCE",
        help="data sets that it needs, say harmful=FILE",
    )
    parser.add_argument("--references", metavar="SOURCE", help="safe references, where the method needs them")
    parser.add_argument("--split", default="train", help="split of the data sets, for hub ids (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="samples of each data set to use (default: all)")
    options = parser.add_argument_group(f"options of method '{method.name}' (--method NAME --help shows another's)")
    for option in fields(method):
        options.add_argument(
            f"--{option.name}",
            type=type(option.default) if type(option.default) in (int, float, str) else json.loads,
            default=argparse.SUPPRESS,
            metavar="VALUE",
            help=f"{option.metadata['help']} (default: {default_of(option)})".replace("%", "%%"),
        )
    return parser
