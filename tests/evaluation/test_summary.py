"""The terminal's table and lines, on results whose figures are worked out by hand."""

import math

import pytest
from rich.console import Console
from scipy import stats

from dualselect.evaluation.summary import summary_table, win_rate_lines
from dualselect.runs import Metric, Record, SuiteResult

NLL = Metric("NLL", "lower", "nats")
REFUSAL = Metric("refusal rate", "higher")


def result(values, *, role="model", suite="probe", name="nll", metric=NLL, kind="probe", seed=None) -> SuiteResult:
    records = [
        Record(str(number), "?", answer="long", baseline_answer="long", values={name: value})
        for number, value in enumerate(values)
    ]
    return SuiteResult(suite, kind, role, {"name": role, "hash": role}, {name: metric}, records, seed=seed)


def lines_of(results):
    console = Console(width=240, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(summary_table(results))
    return [[cell.strip() for cell in line.split("│")] for line in capture.get().splitlines()]


def row(results, first):
    (found,) = [cells for cells in lines_of(results) if len(cells) > 3 and cells[2] == first]
    return found[1:5]


def test_a_line_has_the_mean_its_interval_and_the_paired_difference():
    ours, theirs = [1.0, 2.0, 4.0], [1.5, 2.0, 3.0]
    results = [result(ours, seed=5), result(theirs, role="start")]
    end = stats.t.ppf(0.975, 2)
    mean, half = 7 / 3, end * math.sqrt(7 / 9)  # the variance of 1, 2, 4 is 7/3
    assert row(results, "model")[:1] == ["NLL (nats, lower is better)"]
    assert row(results, "model")[2] == f"2.333 [{mean - half:.3f}, {mean + half:.3f}] (n=3, seeds=1)"
    # Differences -0.5, 0 and 1: mean 1/6, variance 7/12.
    low, high = (1 / 6 + sign * end * math.sqrt(7 / 36) for sign in (-1, 1))
    smallest = (end + stats.t.ppf(0.8, 2)) * math.sqrt(7 / 36)
    assert row(results, "aligned start")[3] == (
        f"+0.167 [{low:+.3f}, {high:+.3f}] (n=3, seeds=1, no difference shown); {smallest:.3f} could have been shown"
    )


def test_one_prompt_shows_nothing():
    results = [result([1.0]), result([3.0], role="baseline")]
    assert row(results, "baseline")[2:] == [
        "3.000 (n=1, seeds=1, no interval: one prompt)",
        "-2.000 (n=1, seeds=1, no interval: one prompt, no difference shown)",
    ]


def test_a_judge_without_any_verdict_is_seen():
    results = [
        result([None, None], name="j/refusal", metric=REFUSAL),
        result([1.0, 0.0], role="start", name="j/refusal"),
    ]
    assert row(results, "model")[2] == "no value"
    assert row(results, "aligned start")[3] == ""


def test_win_rates_are_reported_with_equal_lengths_flips_and_their_average():
    def compared(suite, wins, flips):
        metrics = {"c/win_rate": Metric("win rate (c)", "higher"), "c/flipped": Metric("flipped (c)", "lower")}
        found = result(wins, suite=f"{suite}-winrate", name="c/win_rate", kind="comparison")
        for record, flip in zip(found.records, flips, strict=True):
            record.values["c/flipped"] = flip
        found.metrics = metrics
        return found

    safety = [result([1.0] * 4, suite=suite, name="r", metric=REFUSAL, kind="safety") for suite in "ab"]
    first, second = compared("a", [1.0, 1.0, 0.0, 0.0], [0.0] * 4), compared("b", [1.0] * 4, [1.0] * 4)
    lines = win_rate_lines([*safety, first, second])
    assert lines[0].startswith("a-winrate, win rate (c): 50.0% [")
    assert "; at equal lengths 50.0% [" in lines[0]  # all answers are equally long
    assert "; flipped when swapped 0.0% [" in lines[0]
    assert lines[1].startswith("b-winrate, win rate (c): 100.0% [51.0, 100.0]")  # Wilson: 4 / (4 + 1.96²)
    assert lines[2].startswith("Safety Avg. (mean win rate over 2 safety suites (c)): 75.0% [")
    assert len(lines) == 3
    assert win_rate_lines([safety[0], first]) == lines[:1]


@pytest.mark.parametrize("role", ["baseline", "start"])
def test_without_the_model_there_is_nothing_to_compare(role):
    assert [cells for cells in lines_of([result([1.0, 2.0], role=role)]) if "n=2" in str(cells)] == []
