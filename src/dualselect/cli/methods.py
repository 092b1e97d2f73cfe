"""`dualselect methods`: every way of fine-tuning, with what it needs, what it costs and its options."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dualselect.settings.parser import CommandParser

if TYPE_CHECKING:
    from dualselect.methods import Method

HELP = "list the methods and their options"
ABOUT = """List the methods that `dualselect train --method NAME` knows: when each acts, which data it needs beside
the task, what it costs, how faithful it is to its source, and its options with their defaults.

Methods that act after training also work on a finished run: `dualselect repair --method NAME --model RUN`. Methods of
other packages, registered under the entry-point group `dualselect.methods`, are listed too."""


def run(argv: Sequence[str]) -> int:
    """Print the methods; returns the exit code."""
    parser = CommandParser("methods", ABOUT)
    parser.add_argument("name", nargs="?", help="show only this method")
    name = parser.parse(argv).name

    from rich.console import Console

    from dualselect import methods

    chosen = {name: methods.get(name)} if name else methods.available()
    console = Console(highlight=False, soft_wrap=False)
    if not name:
        console.print(_table(chosen))
    for label, method in chosen.items():
        _show(console, label, method)
    return 0


def _table(chosen: "Mapping[str, type[Method]]") -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table("method", "acts", "needs", "cost in SFT steps", "fidelity", box=None, header_style="bold")
    for name, method in chosen.items():
        row = (name, method.stage, ", ".join(method.pools) or "-", method.cost, method.fidelity.partition(";")[0])
        table.add_row(*map(escape, row))
    return table


def _show(console: Any, name: str, method: "type[Method]") -> None:
    from rich.markup import escape
    from rich.padding import Padding

    from dualselect.options import default_of

    console.print(f"\n[bold]{escape(name)}[/bold]: {escape(first_line(method))}")
    needs = f"Needs {' and '.join(method.pools)}. " if method.pools else ""
    fidelity = method.fidelity[:1].upper() + method.fidelity[1:]
    facts = f"Acts {method.stage} training. {needs}Costs {method.cost}. {fidelity}."
    console.print(Padding(escape(facts), (0, 0, 0, 2)))
    for option in fields(method):
        choices = option.metadata.get("choices")
        one_of = f" One of: {', '.join(choices)}." if choices else ""
        text = f"{option.metadata.get('help', '')}{one_of} (default: {default_of(option)})"
        console.print(f"  --{option.name}", style="cyan")
        console.print(Padding(escape(text), (0, 0, 0, 6)))


def first_line(method: type) -> str:
    """Return the first line of a method's docstring, empty without one."""
    return (method.__doc__ or "").strip().partition("\n")[0]
