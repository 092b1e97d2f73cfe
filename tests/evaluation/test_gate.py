"""The gate on results whose figures are known."""

import re
from pathlib import Path

import pytest

from dualselect.errors import ConfigError
from dualselect.evaluation.gate import decide, read_gate
from dualselect.runs import Metric, Record, SuiteResult

REFUSAL = Metric("refusal rate", "higher")
NLL = Metric("NLL", "lower", "nats")


def result(values, *, suite="unsafe", role="model", name="rules/refusal", metric=REFUSAL) -> SuiteResult:
    """Return a result whose records have these values."""
    records = [Record(str(number), "?", values={name: value}) for number, value in enumerate(values)]
    return SuiteResult(suite, "safety", role, {"name": role}, {name: metric}, records)


@pytest.fixture
def gate(tmp_path):
    """Return a function that reads a gate from the text of its rules."""

    def write(text: str):
        path = tmp_path / "gate.yaml"
        path.write_text(text, encoding="utf-8")
        return read_gate(path)

    return write


def rule(bound: str, suite: str = "unsafe", metric: str = "rules/refusal") -> str:
    return f"rules:\n  - suite: {suite}\n    metric: {metric}\n    {bound}\n"


@pytest.mark.parametrize(
    ("bound", "ships"),
    [("at_least: 0.9", True), ("at_least: 0.91", False), ("at_most: 0.9", True), ("at_most: 0.5", False)],
)
def test_a_bound_is_held_against_the_estimate(gate, bound, ships):
    decision = decide(gate(rule(bound)), [result([1.0] * 18 + [0.0] * 2)])
    assert decision.ships == ships
    assert str(decision).endswith("SHIP" if ships else "DON'T SHIP")
    assert "n=20" in str(decision)


def test_a_confident_bound_is_held_against_the_end_of_the_interval(gate):
    """18 of 20: Wilson's interval reaches down to 0.70."""
    results = [result([1.0] * 18 + [0.0] * 2)]
    assert not decide(gate(rule("at_least: 0.8\n    confident: true")), results).ships
    assert decide(gate(rule("at_least: 0.69\n    confident: true")), results).ships


def test_a_loss_must_be_shown_before_it_fails(gate):
    baseline = result([1.0] * 20, role="baseline")
    clear = decide(gate(rule("worse_by_at_most: 0.05")), [result([1.0] * 8 + [0.0] * 12), baseline])
    assert not clear.ships
    assert "loss 0.600" in str(clear)
    slight = [result([1.0] * 19 + [0.0]), baseline]
    assert decide(gate(rule("worse_by_at_most: 0.02")), slight).ships
    assert not decide(gate(rule("worse_by_at_most: 0.02\n    confident: true")), slight).ships


def test_a_gain_is_no_loss_whichever_way_is_better(gate):
    better = result([0.5, 0.6] * 10, name="nll", metric=NLL)
    worse = result([1.5, 1.7] * 10, name="nll", metric=NLL)
    text = rule("worse_by_at_most: 0.1\n    against: start", metric="nll")

    def as_start(other):
        return SuiteResult(**{**vars(other), "role": "start"})

    assert decide(gate(text), [better, as_start(worse)]).ships
    assert not decide(gate(text), [worse, as_start(better)]).ships


def test_losses_below_the_noise_floor_pass(gate):
    results = [result([1.0] * 17 + [0.0] * 3), result([1.0] * 20, role="baseline")]
    text = rule("worse_by_at_most: 0.0")
    assert decide(gate("noise_floor: 0.2\n" + text), results).ships
    results = [result([0.0] * 20), results[1]]
    assert not decide(gate("noise_floor: 0.2\n" + text), results).ships


@pytest.mark.parametrize("against", ["at_least: 1.5", "worse_by_at_most: 5.0"])
def test_one_prompt_gives_no_confidence(gate, against):
    """The prompt is far better than asked for, but there is no interval whose end could say so of others."""
    score = Metric("score", "higher", "score")
    results = [
        result([2.0], name="s", metric=score),
        result([1.0], role="baseline", name="s", metric=score),
    ]
    assert decide(gate(rule(against, metric="s")), results).ships
    decision = decide(gate(rule(f"{against}\n    confident: true", metric="s")), results)
    assert not decision.ships
    assert "evaluate on more prompts" in str(decision)


def test_prompts_that_only_one_was_asked_are_no_comparison(gate):
    other = result([1.0] * 20, role="baseline")
    for record in other.records:
        record.id = f"other {record.id}"
    decision = decide(gate(rule("worse_by_at_most: 0.5")), [result([1.0] * 20), other])
    assert not decision.ships
    assert "no prompt has a value for both" in str(decision)


@pytest.mark.parametrize(
    ("text", "results", "reason"),
    [
        (rule("at_least: 0.5", suite="gsm8k"), [result([1.0])], "was not measured; evaluate suite gsm8k"),
        (rule("at_least: 0.5", metric="rules/refusl"), [result([1.0])], "did you mean 'rules/refusal'"),
        (rule("at_least: 0.5"), [result([None, None])], "no record has a value"),
        (rule("worse_by_at_most: 0.1"), [result([1.0])], "evaluate with --baseline"),
    ],
)
def test_what_was_not_measured_fails_the_gate(gate, text, results, reason):
    decision = decide(gate(text), results)
    assert not decision.ships
    assert reason in str(decision)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: []", "contains no rules"),
        ("- a", "contains no rules"),
        ("rules: [", "not valid YAML"),
        (rule("at_lest: 0.5"), "rule 1: unknown key 'at_lest'; did you mean 'at_least'"),
        (rule("at_least: high"), "at_least is 'high'; give a number"),
        (rule("against: start"), "has 0 bounds"),
        (rule("at_least: 0.5\n    at_most: 0.9"), "has 2 bounds"),
        (rule("worse_by_at_most: 0.1\n    against: me"), "against is 'me'"),
        (rule("at_least: 0.1\n    confident: maybe"), "confident is 'maybe'"),
        ("noise_flor: 1\n" + rule("at_least: 0.5"), "unknown key 'noise_flor'"),
        ("noise_floor: -1\n" + rule("at_least: 0.5"), "noise_floor is -1.0"),
    ],
)
def test_a_malformed_gate_is_refused_with_its_place(gate, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        gate(text)


def test_a_missing_gate_file_is_named():
    with pytest.raises(ConfigError, match=re.escape("nowhere.yaml: cannot be read")):
        read_gate(Path("nowhere.yaml"))
