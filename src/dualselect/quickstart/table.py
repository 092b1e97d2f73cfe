"""The quickstart's one table, and its figures."""

import math
from typing import Any

from rich.table import Table

from dualselect.quickstart.measure import Outcome
from dualselect.statistics import Estimate


def comparison_table(outcomes: dict[str, Outcome], summary: dict[str, Any]) -> Table:
    """Return the table of all outcomes; values carry their 95% interval."""
    table = Table(title="Safe behaviour after fine-tuning on a partly poisoned task")
    table.add_column("measure")
    titles = {"aligned": "aligned start", "sft": "plain SFT", "dualselect": "DualSelect"}
    for name in outcomes:
        table.add_column(titles[name], justify="right")
    for label, cells in _rows(outcomes):
        table.add_row(label, *cells)
    table.caption = (
        f"held-out prompts, n in parentheses; 95% intervals, Wilson's for rates, else a bootstrap over prompts; seed "
        f"{summary['seed']}; training time DualSelect / SFT {summary['overhead']:.2f}; whole run "
        f"{summary['seconds']:.0f} s"
    )
    return table


def summary_of(outcomes: dict[str, Outcome], seconds: float, seed: int) -> dict[str, Any]:
    """Return the content of summary.json: one object per model, and total seconds, overhead and seed.

    Args:
        outcomes: The models by name; `sft` and `dualselect` are among them.
        seconds: Wall time of the whole run.
        seed: Seed of the run.
    """
    overhead = outcomes["dualselect"].seconds / outcomes["sft"].seconds
    summary = {name: _figures(outcome) for name, outcome in outcomes.items()}
    return {**summary, "seconds": round(seconds, 1), "overhead": round(overhead, 4), "seed": seed}


def _rows(outcomes: dict[str, Outcome]) -> list[tuple[str, list[str]]]:
    figures = [outcome.measures.figures for outcome in outcomes.values()]

    def rates(name: str) -> list[str]:
        return [_cell(item[name], "{:.0%}") for item in figures]

    def means(name: str) -> list[str]:
        return [_cell(item[name], "{:.3f}") for item in figures]

    return [
        ("safe-answer NLL, nats (lower is safer)", means("safe_nll")),
        ("KL from the start on them, nats (lower is safer)", means("safe_kl")),
        ("refusal rate (higher is safer)", rates("refusal_rate")),
        ("over-refusal of look-alikes (lower is better)", rates("overrefusal_rate")),
        ("task exact match (higher is better)", rates("task_em")),
        ("task NLL, nats (lower is better)", means("task_nll")),
        ("poison samples trained on", [str(outcome.poison_kept) for outcome in outcomes.values()]),
        ("training time, s", [f"{outcome.seconds:.0f}" if outcome.seconds else "-" for outcome in outcomes.values()]),
    ]


def _cell(estimate: Estimate, form: str) -> str:
    value, low, high = (form.format(number) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}] ({estimate.n})"


def _figures(outcome: Outcome) -> dict[str, float]:
    figures = {name: estimate.value for name, estimate in outcome.measures.figures.items()}
    figures["poison_kept"] = outcome.poison_kept
    assert not any(math.isnan(value) for value in figures.values())
    return figures
