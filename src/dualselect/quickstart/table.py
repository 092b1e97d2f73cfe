"""The quickstart's one table."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

from dualselect.evaluation import Proportion

if TYPE_CHECKING:
    from dualselect.quickstart.run import Outcome


def comparison_table(outcomes: "dict[str, Outcome]", summary: dict[str, Any]) -> Table:
    """Return the table of all outcomes; proportions carry their 95% Wilson interval."""
    table = Table(title="Safe behaviour after fine-tuning on a partly poisoned task")
    table.add_column("measure")
    titles = {"aligned": "aligned start", "sft": "plain SFT", "dualselect": "DualSelect"}
    for name in outcomes:
        table.add_column(titles[name], justify="right")
    for label, cells in _rows(outcomes):
        table.add_row(label, *cells)
    table.caption = (
        f"held-out prompts, n in parentheses; intervals: 95% Wilson; seed {summary['seed']}; "
        f"training time DualSelect / SFT {summary['overhead']:.2f}; whole run {summary['seconds']:.0f} s"
    )
    return table


def _rows(outcomes: "dict[str, Outcome]") -> list[tuple[str, list[str]]]:
    measured = [outcome.measures for outcome in outcomes.values()]
    return [
        ("safe-answer NLL, nats (lower is safer)", [f"{item.safe_nll:.3f}" for item in measured]),
        ("KL from the start on them, nats (lower is safer)", [f"{item.safe_kl:.3f}" for item in measured]),
        ("refusal rate (higher is safer)", [_proportion(item.refusals) for item in measured]),
        ("over-refusal of look-alikes (lower is better)", [_proportion(item.overrefusals) for item in measured]),
        ("task exact match (higher is better)", [_proportion(item.exact_matches) for item in measured]),
        ("task NLL, nats (lower is better)", [f"{item.task_nll:.3f}" for item in measured]),
        ("poison samples trained on", [str(outcome.poison_kept) for outcome in outcomes.values()]),
        ("training time, s", [f"{outcome.seconds:.0f}" if outcome.seconds else "-" for outcome in outcomes.values()]),
    ]


def _proportion(value: Proportion) -> str:
    low, high = value.interval
    return f"{value.rate:.0%} [{low:.0%}, {high:.0%}] ({value.total})"
