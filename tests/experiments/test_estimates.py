"""The numbers of the tables against closed forms and full enumeration."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from dualselect.errors import DataError
from dualselect.runs import Metric
from dualselect.runs.estimates import estimate_rows, estimates_table
from dualselect.runs.results import mean_estimate

NAME = "rules/refusal"
NLL = Metric("NLL of safe answers", "lower", "nats")


def wilson(successes, n):
    """Solve (p - rate)² = z² p (1 - p) / n for p, as the interval is defined."""
    z = NormalDist().inv_cdf(0.975)
    rate = successes / n
    roots = np.roots([1 + z**2 / n, -2 * rate - z**2 / n, rate**2])
    return sorted(roots.real)


def enumerated(table):
    """Return the mean of every resample of seeds and prompts, each as often as it is likely."""
    seeds, prompts = table.shape
    means = [
        table[np.ix_(rows, columns)].mean()
        for rows in itertools.product(range(seeds), repeat=seeds)
        for columns in itertools.product(range(prompts), repeat=prompts)
    ]
    return np.sort(means)


def by_method(rows, metric=NAME):
    return {row.method: row for row in rows if row.name == metric}


def test_a_share_of_one_seed_has_a_wilson_interval(make_result):
    found = mean_estimate([make_result([1, 0, 0, 1, 0, None])], NAME)
    assert (found.value, found.n, found.seeds, found.missing) == (0.4, 5, 1, 1)
    assert [found.low, found.high] == pytest.approx(wilson(2, 5))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_shares_over_seeds_have_a_wilson_interval_over_the_distinct_prompts(make_result, value):
    found = mean_estimate([make_result([value] * 6, seed) for seed in range(3)], NAME)
    assert (found.value, found.n, found.seeds) == (value, 6, 3)
    assert [found.low, found.high] == pytest.approx(wilson(6 * value, 6), abs=1e-12)


def test_shares_over_seeds_resample_prompts_and_seeds(make_result):
    table = np.array([[1, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1]], dtype=float)
    found = mean_estimate([make_result(list(row), seed) for seed, row in enumerate(table)], NAME)
    assert found.value == table.mean()
    assert (found.n, found.seeds) == (4, 3)
    assert [found.low, found.high] == pytest.approx(np.quantile(enumerated(table), [0.025, 0.975]), abs=0.03)


def test_one_number_has_no_interval(make_result):
    found = mean_estimate([make_result([2.5], metric=NLL)], NAME)
    assert found.value == 2.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_no_value_is_no_row(make_result):
    results = {"sft": [make_result([None, None])], "random": [make_result([1, 0])]}
    rows = by_method(estimate_rows(results, "sft"))
    assert list(rows) == ["random"]
    assert rows["random"].difference is None


def test_a_difference_pairs_prompts_by_id_and_seeds_by_number(make_result):
    ours = {0: {"a": 1.0, "b": 2.0, "c": 4.0}, 1: {"c": 5.0, "a": 2.0, "b": 2.0}}
    base = {1: {"b": 1.0, "c": 1.0, "a": 1.0}, 0: {"c": 2.0, "b": 2.0, "a": 2.0}}
    results = {
        "sft": [make_result(values, seed, metric=NLL) for seed, values in base.items()],
        "dualselect": [make_result(values, seed, metric=NLL) for seed, values in ours.items()],
    }
    difference = by_method(estimate_rows(results, "sft"))["dualselect"].difference
    table = np.array([[1 - 2, 2 - 2, 4 - 2], [2 - 1, 2 - 1, 5 - 1]], dtype=float)
    assert difference.estimate.value == pytest.approx(table.mean())
    means = enumerated(table)
    assert [difference.estimate.low, difference.estimate.high] == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=0.1
    )
    assert difference.estimate.p_value == pytest.approx(2 * (means <= 0).mean(), abs=0.02)
    assert (difference.estimate.n, difference.seeds) == (3, (0, 1))
    assert not difference.shown


def test_a_method_is_compared_on_the_seeds_that_it_shares_with_the_baseline(make_result):
    results = {
        "sft": [make_result([0, 0, 1, 0], 0), make_result([0, 1, 0, 0], 1)],
        "dualselect": [make_result([1, 1, 1, 1], 1), make_result([1, 0, 1, 1], 2)],
        "random": [make_result([1, 1, 1, 1], 2)],
    }
    rows = by_method(estimate_rows(results, "sft"))
    assert rows["dualselect"].estimate.value == 7 / 8
    assert rows["dualselect"].difference.seeds == (1,)
    assert rows["dualselect"].difference.estimate.value == 0.75
    assert rows["random"].difference is None


def test_p_values_are_adjusted_over_the_methods_of_a_metric(make_result):
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 40)
    shifts = {"random": 0.1, "safegrad": 0.25, "dualselect": 0.35}
    results = {"start": [make_result(list(base), None, metric=NLL)], "sft": [make_result(list(base), metric=NLL)]}
    results |= {
        label: [make_result(list(base + shift + rng.normal(0, 0.8, 40)), metric=NLL)] for label, shift in shifts.items()
    }
    rows = by_method(estimate_rows(results, "sft"))
    raw = sorted((rows[label].difference.estimate.p_value, label) for label in shifts)
    expected, largest = {}, 0.0
    for factor, (p, label) in zip((3, 2, 1), raw, strict=True):
        largest = max(largest, min(1.0, factor * p))
        expected[label] = largest
    assert {label: rows[label].difference.p_holm for label in shifts} == pytest.approx(expected)
    assert rows["sft"].difference is None
    assert rows["start"].difference is None
    for label in shifts:
        difference = rows[label].difference
        assert difference.shown == (not difference.estimate.holds_zero and expected[label] <= 0.05)
    assert {rows[label].difference.shown for label in shifts} == {True, False}


@pytest.mark.parametrize("n", [3, 4, 5, 40])
def test_the_p_value_of_a_difference_without_spread_agrees_with_its_interval(make_result, n):
    results = {"sft": [make_result([0] * n)], "dualselect": [make_result([1] * n)]}
    difference = by_method(estimate_rows(results, "sft"))["dualselect"].difference
    assert (difference.p_holm <= 0.05) == (not difference.estimate.holds_zero) == (n >= 4)
    if not difference.estimate.holds_zero:
        # z² = n |difference|, here n
        assert difference.p_holm == pytest.approx(2 * (1 - NormalDist().cdf(math.sqrt(n))), abs=1e-12)


def test_one_prompt_shows_nothing_however_many_seeds_agree(make_result):
    results = {
        "sft": [make_result([1.0], seed, metric=NLL) for seed in range(5)],
        "dualselect": [make_result([2.0 + seed], seed, metric=NLL) for seed in range(5)],
    }
    difference = by_method(estimate_rows(results, "sft"))["dualselect"].difference
    assert not difference.estimate.holds_zero
    assert not difference.shown


def test_results_that_share_no_prompt_are_an_error(make_result):
    with pytest.raises(DataError, match="'unsafe' share no prompt"):
        estimate_rows({"sft": [make_result({"a": 1})], "random": [make_result({"b": 1})]}, "sft")


def test_the_table_has_a_row_for_every_suite_metric_and_method(make_result):
    results = {
        "start": [make_result([1, 1], None), make_result([0.5, 0.7], None, suite="probe", metric=NLL, name="nll")],
        "sft": [make_result([0, 1]), make_result([0.9, 0.7], suite="probe", metric=NLL, name="nll")],
        "dualselect": [make_result([1, 1]), make_result([0.5, None], suite="probe", metric=NLL, name="nll")],
    }
    table = estimates_table(estimate_rows(results, "sft")).to_pylist()
    assert [(row["suite"], row["metric"], row["method"]) for row in table] == [
        *(("unsafe", NAME, label) for label in ("start", "sft", "dualselect")),
        *(("probe", "nll", label) for label in ("start", "sft", "dualselect")),
    ]
    assert table[0]["diff"] is None
    assert table[1]["shown"] is None
    assert table[2]["diff"] == 0.5
    assert table[2]["diff_seeds"] == [0]
    last = table[-1]
    assert (last["value"], last["low"], last["n"], last["missing"]) == (0.5, None, 1, 1)
    assert last["diff"] == pytest.approx(-0.4)
    assert (last["kind"], last["title"], last["better"], last["unit"]) == ("safety", NLL.title, "lower", "nats")
