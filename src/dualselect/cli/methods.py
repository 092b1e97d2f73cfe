"""`dualselect methods`: every way of fine-tuning, with its options."""

import argparse
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualselect.methods import Method

_ABOUT = """List the methods that `dualselect train --method NAME` knows, with their options and defaults.

Methods of other packages, registered under the entry-point group `dualselect.methods`, are listed too."""


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser of `dualselect`."""
    parser = subparsers.add_parser(
        "methods",
        help="list the methods and their options",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", help="show this method alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the methods; returns the exit code."""
    from rich.console import Console

    from dualselect import methods

    chosen = {args.name: methods.get(args.name)} if args.name else methods.available()
    # Wider than a narrow terminal only where the output goes into a file or pipe.
    console = Console(highlight=False, soft_wrap=False)
    for name, method in chosen.items():
        _show(console, name, method)
    return 0


def _show(console: Any, name: str, method: "type[Method]") -> None:
    from rich.markup import escape
    from rich.padding import Padding

    about = escape(first_line(method))
    needs = " Needs references." if method.needs_references else ""
    console.print(f"[bold]{escape(name)}[/bold]: {about}{needs}")
    for option in fields(method):
        choices = option.metadata.get("choices")
        one_of = f" One of: {', '.join(choices)}." if choices else ""
        text = f"{option.metadata.get('help', '')}{one_of} (default: {_default(option)})"
        console.print(f"  --{option.name}", style="cyan")
        console.print(Padding(escape(text), (0, 0, 0, 6)))
    console.print()


def first_line(method: type) -> str:
    """Return the first line of a method's docstring, or nothing."""
    return (method.__doc__ or "").strip().partition("\n")[0]


def _default(option: "Field[Any]") -> Any:
    if option.default is not MISSING:
        return "unset" if option.default is None else option.default
    return "none: must be given" if option.default_factory is MISSING else option.default_factory()
