"""What the tables say, and that they can be typeset whatever the names."""

import pytest
from scipy import stats

from dualselect.experiments.tables import Comparison, latex_table, markdown_table, verdict
from dualselect.runs import Metric
from dualselect.runs.estimates import estimates

NLL = Metric("NLL", "lower", "nats")
LENGTH = Metric("length", "neither", "score")


@pytest.fixture
def comparison(make_result, as_values):
    def make(ours, base, *, metric=NLL, label="dualselect", seeds=(0,), start=None, suite="unsafe"):
        results = {"start": [make_result(start, None, metric=metric, suite=suite)]} if start else {}
        results["sft"] = [make_result(base, seed, metric=metric, suite=suite) for seed in seeds]
        results[label] = [make_result(ours, seed, metric=metric, suite=suite) for seed in seeds]
        done = {"sft": list(seeds), label: list(seeds)}
        return Comparison(["sft", label], [0, 1, 2], "sft", estimates(as_values(results), "sft"), {}, done)

    return make


def cells(text, first):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_shows_mean_interval_n_seeds_and_difference(comparison):
    shares = Metric("refusal rate", "higher")
    made = comparison([1, 1, 0, None], [0, 1, 0, 0], metric=shares, seeds=(0, 1), start=[1, 1, 1, 1])
    text = markdown_table(made)
    assert cells(text, "start")[:5] == ["start", "100.0%", r"\[51.0, 100.0\]", "4", "–"]
    ours = cells(text, "dualselect")
    assert ours[1] == "66.7%"
    assert ours[3:6] == ["3", "2", "+33.3 pp"]
    # Differences 1, 0, 0 of both seeds: Student's t with 2 degrees of freedom, cut at 100 points.
    low = 100 * (1 / 3 - stats.t.ppf(0.975, 2) / 3)
    assert ours[6] == rf"\[{max(low, -100):+.1f}, +100.0\]"
    assert ours[8] == "no difference shown, 2 without a value, compared on seeds 0, 1"
    assert "refusal rate (higher is better)" in text
    assert "no difference shown" not in cells(text, "sft")


@pytest.mark.parametrize(
    ("metric", "shift", "said"),
    [
        (NLL, -1, "better than sft"),
        (NLL, 1, "worse than sft"),
        (LENGTH, 1, "higher than sft"),
        (LENGTH, -1, "lower than sft"),
        (NLL, 0, "no difference shown"),
    ],
)
def test_a_difference_that_is_shown_says_which_way(comparison, metric, shift, said):
    base = [float(number % 7) for number in range(40)]
    made = comparison([value + shift + 0.01 * (n % 3 - 1) for n, value in enumerate(base)], base, metric=metric)
    (row,) = [row for row in made.rows if row.method == "dualselect"]
    assert verdict(row.difference, metric) == said
    assert said in cells(markdown_table(made), "dualselect")[8]
    assert said in latex_table(made)


def test_what_is_one_value_says_that_it_has_no_interval(comparison):
    shown = cells(markdown_table(comparison([1.0], [2.0])), "dualselect")
    assert (shown[2], shown[6]) == ("–", "–")
    assert shown[8] == "no difference shown, no interval: one prompt, compared on seeds 0"


def test_a_method_that_was_measured_on_other_prompts_says_so(comparison):
    shown = cells(markdown_table(comparison({"a": 1.0, "b": 2.0}, {"c": 2.0, "d": 1.0})), "dualselect")
    assert shown[5:8] == ["", "", ""]
    assert shown[8] == "shares no prompt and seed with sft"


def test_hostile_names_are_escaped(comparison):
    metric = Metric(r"50% of a_b & c^2 #1 ~ {x} \ $y | <b> *z*", "lower", "nats")
    made = comparison([1.0, 2.0], [2.0, 2.0], metric=metric, label="my_method", suite="a_b|c")
    latex = latex_table(made)
    assert r"50\% of a\_b \& c\textasciicircum{}2 \#1 \textasciitilde{} \{x\} \textbackslash{} \$y" in latex
    assert r"my\_method & 1.500 &" in latex
    markdown = markdown_table(made)
    assert r"## a\_b\|c" in markdown
    assert r"\| \<b\> \*z\*" in markdown
    assert len(cells(markdown, r"my\_method")) == 9


def test_latex_is_balanced_and_every_row_has_nine_cells(comparison):
    latex = latex_table(comparison([1.0, 2.5], [2.0, 2.0], start=[1.0, 1.5]))
    body = [line for line in latex.splitlines() if not line.startswith("%")]
    assert latex.count(r"\begin{longtable}") == latex.count(r"\end{longtable}") == 1
    rows = [line for line in body if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 4
    assert all(line.count("&") - line.count(r"\&") == 8 for line in rows)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert rule in body


def test_the_head_says_how_to_read_it(comparison):
    text = markdown_table(comparison([1.0, 2.0], [2.0, 1.0], start=[1.0, 1.0]))
    assert "Seeds 0, 1, 2; differences from sft" in text
    assert "dualselect: done for seeds 0 alone" in text
    assert "Holm" in text
