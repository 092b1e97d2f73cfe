"""The numbers of the tables against closed forms and full enumeration."""

import math
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from dualselect.errors import DataError
from dualselect.runs import Metric, Record, SuiteResult
from dualselect.runs.estimates import EVEN, estimates, read_estimates, run_estimates, write_estimates
from dualselect.statistics import mean_estimate
from dualselect.statistics.bootstrap import FEW_PROMPTS

NAME = "rules/refusal"
NLL = Metric("NLL of safe answers", "lower", "nats")


def wilson(successes, n):
    """Solve (p - rate)² = z² p (1 - p) / n for p, as the interval is defined."""
    z = NormalDist().inv_cdf(0.975)
    rate = successes / n
    roots = np.roots([1 + z**2 / n, -2 * rate - z**2 / n, rate**2])
    return sorted(roots.real)


def by_method(rows, metric=NAME):
    return {row.method: row for row in rows if row.name == metric}


def test_a_share_of_one_seed_has_a_wilson_interval():
    found = mean_estimate([1, 0, 0, 1, 0, None], shares=True)
    assert (found.value, found.n, found.seeds, found.missing) == (0.4, 5, 1, 1)
    assert [found.low, found.high] == pytest.approx(wilson(2, 5))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_shares_over_seeds_have_a_wilson_interval_over_the_distinct_prompts(value):
    found = mean_estimate([[value] * 6] * 3, shares=True)
    assert (found.value, found.n, found.seeds) == (value, 6, 3)
    assert [found.low, found.high] == pytest.approx(wilson(6 * value, 6), abs=1e-12)


def test_shares_over_seeds_resample_prompts_and_seeds():
    """The variance of the mean is, for prompts and seeds that are drawn independently, known in closed form."""
    rng = np.random.default_rng(0)
    table = (rng.random((3, 60)) < rng.random(60)).astype(float)
    found = mean_estimate(table, shares=True)
    assert found.value == table.mean()
    assert (found.n, found.seeds) == (60, 3)
    # Owen (2007): each factor's variance of means, and the rest, which both factors draw.
    prompts, seeds, rest = table.mean(0).var() / 60, table.mean(1).var() / 3, table.var() / 180
    between = prompts + seeds + rest - (prompts / 3 + seeds / 60)
    half = 1.96 * math.sqrt(between)
    assert [found.low, found.high] == pytest.approx([found.value - half, found.value + half], abs=0.02)


def test_no_value_is_no_row(make_result, as_values):
    results = {"sft": [make_result([None, None])], "random": [make_result([1, 0])]}
    rows = by_method(estimates(as_values(results), "sft"))
    assert list(rows) == ["random"]
    assert rows["random"].difference is None


def test_a_difference_pairs_prompts_by_id_and_seeds_by_number(make_result, as_values):
    ours = {0: {"a": 1.0, "b": 2.0, "c": 4.0}, 1: {"c": 5.0, "a": 2.0, "b": 2.0}}
    base = {1: {"b": 1.0, "c": 1.0, "a": 1.0}, 0: {"c": 2.0, "b": 2.0, "a": 2.0}}
    results = {
        "sft": [make_result(values, seed, metric=NLL) for seed, values in base.items()],
        "dualselect": [make_result(values, seed, metric=NLL) for seed, values in ours.items()],
    }
    difference = by_method(estimates(as_values(results), "sft"))["dualselect"].difference
    table = np.array([[1 - 2, 2 - 2, 4 - 2], [2 - 1, 2 - 1, 5 - 1]], dtype=float)
    assert difference.other == "sft"
    assert difference.estimate.value == pytest.approx(table.mean())
    # Means of prompts 0, 0.5 and 3, means of seeds 1/3 and 2.
    prompts, seeds = np.var([0, 0.5, 3], ddof=1) / 3, np.var([1 / 3, 2], ddof=1) / 2
    degrees = (prompts + seeds) ** 2 / (prompts**2 / 2 + seeds**2)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(prompts + seeds)
    ends = [table.mean() - half, table.mean() + half]
    assert [difference.estimate.low, difference.estimate.high] == pytest.approx(ends, rel=1e-6)
    assert (difference.estimate.n, difference.seeds) == (3, (0, 1))
    assert not difference.shown


def test_a_difference_over_many_prompts_is_that_of_all_resamples(make_result, as_values):
    table = np.random.default_rng(1).normal(0.3, 1, (2, FEW_PROMPTS + 1))
    results = {
        "sft": [make_result([0.0] * (FEW_PROMPTS + 1), seed, metric=NLL) for seed in range(2)],
        "dualselect": [make_result(list(row), seed, metric=NLL) for seed, row in enumerate(table)],
    }
    found = by_method(estimates(as_values(results), "sft"))["dualselect"].difference.estimate
    rng = np.random.default_rng(2)
    columns = rng.integers(0, FEW_PROMPTS + 1, (40_000, FEW_PROMPTS + 1))
    rows = rng.integers(0, 2, (40_000, 2))
    means = np.array([table[np.ix_(row, column)].mean() for row, column in zip(rows, columns, strict=True)])
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)
    assert found.p_value == pytest.approx(2 * (means <= 0).mean(), abs=0.02)


def test_a_method_is_compared_on_the_seeds_that_it_shares_with_the_baseline(make_result, as_values):
    results = {
        "sft": [make_result([0, 0, 1, 0], 0), make_result([0, 1, 0, 0], 1)],
        "dualselect": [make_result([1, 1, 1, 1], 1), make_result([1, 0, 1, 1], 2)],
        "random": [make_result([1, 1, 1, 1], 2)],
    }
    rows = by_method(estimates(as_values(results), "sft"))
    assert rows["dualselect"].estimate.value == 7 / 8
    assert rows["dualselect"].difference.seeds == (1,)
    assert rows["dualselect"].difference.estimate.value == 0.75
    assert rows["random"].difference is None


def test_p_values_are_adjusted_over_the_methods_of_a_metric(make_result, as_values):
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 40)
    shifts = {"random": 0.1, "safegrad": 0.25, "dualselect": 0.35}
    results = {"start": [make_result(list(base), None, metric=NLL)], "sft": [make_result(list(base), metric=NLL)]}
    results |= {
        label: [make_result(list(base + shift + rng.normal(0, 0.8, 40)), metric=NLL)] for label, shift in shifts.items()
    }
    rows = by_method(estimates(as_values(results), "sft"))
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
def test_the_p_value_of_a_difference_without_spread_agrees_with_its_interval(make_result, as_values, n):
    results = {"sft": [make_result([0] * n)], "dualselect": [make_result([1] * n)]}
    difference = by_method(estimates(as_values(results), "sft"))["dualselect"].difference
    assert (difference.p_holm <= 0.05) == (not difference.estimate.holds_zero) == (n >= 4)
    if not difference.estimate.holds_zero:
        # z² = n |difference|, here n
        assert difference.p_holm == pytest.approx(2 * (1 - NormalDist().cdf(math.sqrt(n))), abs=1e-12)


def test_one_prompt_shows_nothing_however_many_seeds_agree(make_result, as_values):
    results = {
        "sft": [make_result([1.0], seed, metric=NLL) for seed in range(5)],
        "dualselect": [make_result([2.0 + seed], seed, metric=NLL) for seed in range(5)],
    }
    row = by_method(estimates(as_values(results), "sft"))["dualselect"]
    assert math.isnan(row.estimate.low)
    assert math.isnan(row.difference.estimate.low)
    assert not row.difference.shown


def test_seeds_of_one_method_that_share_no_prompt_are_an_error(make_result, as_values):
    results = {"sft": [make_result({"a": 1}, 0), make_result({"b": 1}, 1)]}
    with pytest.raises(DataError, match="'unsafe' share no prompt"):
        estimates(as_values(results), "sft")


def test_methods_that_share_no_prompt_are_not_compared(make_result, as_values):
    results = {"sft": [make_result({"a": 1})], "random": [make_result({"b": 1})]}
    rows = by_method(estimates(as_values(results), "sft"))
    assert rows["random"].estimate.value == 1
    assert rows["random"].difference is None


def test_a_baseline_without_a_seed_is_paired_with_every_seed(make_result, as_values):
    results = {
        "start": [make_result([1.0, 3.0], None, metric=NLL)],
        "sft": [make_result([2.0, 3.0], 0, metric=NLL), make_result([4.0, 5.0], 1, metric=NLL)],
    }
    row = by_method(estimates(as_values(results), "start"))["sft"]
    assert row.difference_from("start").estimate.value == pytest.approx((1 + 0 + 3 + 2) / 4)
    assert row.difference_from("start").seeds == (0, 1)
    assert row.by_seed == (2.5, 4.5)


def test_what_a_whole_run_took_is_drawn_run_by_run(make_result, as_values):
    seconds = Metric("training time in seconds", "neither", "score")
    taken = [300.0, 330.0, 360.0]
    results = {"sft": [make_result({"run": value}, seed, metric=seconds) for seed, value in enumerate(taken)]}
    (row,) = estimates(as_values(results))
    ends = stats.ttest_1samp(taken, 0).confidence_interval(0.95)
    assert (row.estimate.value, row.estimate.n, row.estimate.seeds) == (330.0, 1, 3)
    assert (row.estimate.low, row.estimate.high) == pytest.approx((ends.low, ends.high))


def test_the_file_gives_back_every_row_and_difference(make_result, as_values, tmp_path):
    probe = {"suite": "probe", "metric": NLL, "name": "nll"}
    results = {
        "start": [make_result([1, 1], None), make_result([0.5, 0.7], None, **probe)],
        "sft": [make_result([0, 1], seed) for seed in (0, 1)] + [make_result([0.9, 0.7], **probe)],
        "dualselect": [make_result([1, 1], seed) for seed in (0, 1)] + [make_result([0.5, None], **probe)],
    }
    rows = estimates(as_values(results), "sft", "start")
    assert [(row.suite, row.name, row.method) for row in rows] == [
        *(("unsafe", NAME, label) for label in ("start", "sft", "dualselect")),
        *(("probe", "nll", label) for label in ("start", "sft", "dualselect")),
    ]
    write_estimates(rows, tmp_path)
    # NaN is not equal to itself, but its text is.
    assert list(map(repr, read_estimates(tmp_path))) == list(map(repr, rows))
    table = pq.read_table(tmp_path / "estimates.parquet").to_pylist()
    assert [(line["method"], line["other"]) for line in table[:4]] == [
        ("start", None),
        ("sft", None),
        ("dualselect", "sft"),
        ("dualselect", "start"),
    ]
    assert table[0]["diff"] is None
    assert (table[2]["diff"], table[2]["diff_seeds"], table[2]["shown"]) == (0.5, [0, 1], False)
    last = table[-1]
    assert (last["value"], last["low"], last["n"], last["missing"]) == (0.5, None, 1, 1)
    assert (last["kind"], last["title"], last["better"], last["unit"]) == ("safety", NLL.title, "lower", "nats")


def test_a_file_of_an_older_version_is_read(tmp_path):
    columns = {
        "method": ["sft", "dualselect", "dualselect"],
        "suite": ["unsafe", "unsafe", "unsafe-winrate"],
        "metric": [NAME, NAME, "rules/win_rate"],
        "title": ["refusal rate", "refusal rate", "win rate"],
        "kind": ["safety", "safety", "comparison"],
        "better": ["higher"] * 3,
        "unit": ["share"] * 3,
        "value": [0.5, 0.75, 0.7],
        "low": [0.25, None, 0.6],
        "high": [0.75, None, 0.8],
        "n": [40] * 3,
        "seeds": [3] * 3,
        "missing": [0] * 3,
        "diff": [None, 0.25, None],
        "diff_low": [None, 0.1, None],
        "diff_high": [None, 0.4, None],
        "p_value": [None, 0.01, None],
        "p_holm": [None, 0.02, None],
        "shown": [None, True, None],
        "diff_n": [None, 39, None],
        "diff_missing": [None, 1, None],
        "diff_seeds": [None, [0, 1, 2], None],
    }
    pq.write_table(pa.Table.from_pydict(columns), tmp_path / "estimates.parquet")
    sft, ours, wins = read_estimates(tmp_path, "sft")
    assert (sft.estimate.low, sft.difference) == (0.25, None)
    assert math.isnan(ours.estimate.low)
    found = ours.difference_from("sft")
    assert (found.estimate.value, found.estimate.n, found.seeds, found.p_holm) == (0.25, 39, (0, 1, 2), 0.02)
    assert found.shown
    assert wins.difference_from(EVEN).estimate.low == pytest.approx(0.1)
    assert wins.difference_from(EVEN).shown
    assert wins.difference is None


def of_role(role, values, *, suite="unsafe", name="model", seed=None, hash="h") -> SuiteResult:
    records = [Record(str(number), "?", values={"nll": value}) for number, value in enumerate(values)]
    target = {"name": name, "hash": hash}
    return SuiteResult(suite, "probe", role, target, {"nll": NLL}, records, seed=seed)


def test_a_run_is_a_comparison_of_its_model_with_its_start_and_baselines():
    rng = np.random.default_rng(0)
    start, first, ours = rng.normal(2, 0.1, (3, 40))
    results = [
        of_role("model", ours, name="runs/mine", seed=3, hash="m"),
        of_role("baseline", first, name="org/first", seed=1, hash="b1"),
        of_role("start", start, name="org/base", hash="s"),
        of_role("model", ours, suite="other", name="runs/mine", seed=3, hash="m"),
        of_role("baseline", first + 1, suite="other", name="org/second", hash="b2"),
    ]
    rows = {(row.suite, row.method): row for row in run_estimates(results)}
    assert list(rows) == [
        ("unsafe", "start"),
        ("unsafe", "first"),
        ("unsafe", "mine"),
        ("other", "second"),
        ("other", "mine"),
    ]
    mine = rows["unsafe", "mine"]
    assert [difference.other for difference in mine.differences] == ["start", "first"]
    assert mine.difference_from("start").estimate.value == pytest.approx((ours - start).mean())
    assert mine.difference_from("first").estimate.value == pytest.approx((ours - first).mean())
    assert [difference.other for difference in rows["other", "mine"].differences] == ["second"]
    assert rows["unsafe", "first"].differences == ()
    # 80% power at 5%: 2.80 standard errors.
    smallest = (1.959964 + 0.841621) * (ours - start).std(ddof=1) / math.sqrt(40)
    assert mine.difference_from("start").detectable == pytest.approx(smallest, rel=1e-5)


def test_seeds_count_for_the_smallest_difference_that_could_be_shown(make_result, as_values):
    rng = np.random.default_rng(0)
    ours, base = rng.normal(1, 1, (3, 40)), rng.normal(0, 1, (3, 40))
    results = {
        name: [make_result(list(values[seed]), seed, metric=Metric("NLL", "lower", "nats")) for seed in range(3)]
        for name, values in (("sft", base), ("mine", ours))
    }
    (row,) = [row for row in estimates(as_values(results), "sft") if row.method == "mine"]
    pairs = ours - base
    error = math.sqrt(pairs.mean(0).var(ddof=1) / 40 + pairs.mean(1).var(ddof=1) / 3)
    assert row.difference.detectable == pytest.approx((1.959964 + 0.841621) * error, rel=1e-5)
