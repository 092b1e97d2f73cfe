"""`dualselect evaluate` on small runs of the tiny Llama."""

import json

import pytest
import yaml

from dualselect.runs import read_results
from dualselect.runs.results import SuiteResult

pytestmark = pytest.mark.slow

LIMITS = ("--limit", 5, "--max_new_tokens", 4, "--batch_size", 4)


@pytest.fixture
def runs(dualselect, config, monkeypatch, tmp_path):
    """Return a folder with two finished runs from one base, `sft` and `tuned`."""
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "300")  # no cell of the table is broken into lines
    for name, method in (("sft", "sft"), ("tuned", "dualselect")):
        outcome = dualselect("train", "--config", config, "--method", method, "--output_dir", tmp_path / name)
        assert outcome.code == 0, outcome.err
    return tmp_path


def result(folder, name) -> SuiteResult:
    return SuiteResult.read(folder / "evaluation" / f"{name}.json")


def test_a_run_is_measured_beside_its_start_and_a_baseline(dualselect, runs):
    flags = ("--suite", "safety,overrefusal", *LIMITS)
    outcome = dualselect("evaluate", "--model", runs / "tuned", "--baseline", runs / "sft", *flags)
    assert outcome.code == 0, outcome.err
    roles = {(found.suite, found.role) for found in read_results(runs / "tuned")}
    suites = ("builtin-safety", "builtin-safe-answers", "builtin-overrefusal")
    assert roles == {(suite, role) for suite in suites for role in ("model", "baseline", "start")} | {
        ("builtin-safety-winrate", "model")
    }
    model, start = (result(runs / "tuned", f"builtin-safe-answers{role}") for role in ("", ".start"))
    assert start.estimate("safe_kl").value == pytest.approx(0, abs=1e-6)
    assert model.estimate("safe_kl").value > 0
    assert [record.id for record in model.records] == [record.id for record in start.records]
    assert "no difference shown" in " ".join(outcome.out.split())
    assert "win rate" in outcome.out


def test_what_is_there_is_not_measured_again(dualselect, runs, monkeypatch):
    flags = ("evaluate", "--model", runs / "tuned", "--start", "none", "--suite", "builtin-safety", *LIMITS)
    assert dualselect(*flags).code == 0
    path = runs / "tuned" / "evaluation" / "builtin-safety.json"
    before = path.stat().st_mtime_ns
    monkeypatch.setattr("dualselect.evaluation.run.run_suite", None)
    assert dualselect(*flags).code == 0
    assert path.stat().st_mtime_ns == before


def test_another_judge_or_another_model_is_measured_again(dualselect, runs):
    flags = ("evaluate", "--start", "none", "--suite", "builtin-safety", "--output_dir", runs / "out", *LIMITS)
    found = []
    for extra in (
        ("--model", runs / "tuned"),
        ("--model", runs / "sft"),
        ("--model", runs / "sft", "--judge", "refusal:anywhere"),
    ):
        assert dualselect(*flags, *extra).code == 0
        found.append(result(runs / "out", "builtin-safety"))
    assert found[0].target["hash"] != found[1].target["hash"] == found[2].target["hash"]
    assert found[1].judges != found[2].judges


def test_prompts_that_were_trained_on_are_left_out_and_counted(dualselect, runs, data):
    rows = [{"prompt": "no 1?", "completion": "no"}, {"prompt": "  COUNT 2? ", "completion": "no"}, {"prompt": "new?"}]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ("--suite", "advbench", "--data", f"advbench={data / 'test.jsonl'}", "--start", "none", *LIMITS)
    outcome = dualselect("evaluate", "--model", runs / "tuned", *flags)
    assert outcome.code == 0, outcome.err
    measured = result(runs / "tuned", "advbench")
    assert [record.prompt for record in measured.records] == ["new?"]
    assert measured.settings["left_out_since_trained_on"] == 2
    assert "left out 2 prompts" in " ".join(outcome.err.split())


def test_own_suites_need_no_code(dualselect, tiny_model_dir, tmp_path):
    for name, row in (("requests", {"prompt": "Harm me!"}), ("sums", {"prompt": "2+2?", "expected": "4"})):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "mine.yaml").write_text("sums:\n  kind: utility\n  source: sums.jsonl\n")
    suites = f"requests={tmp_path / 'requests.jsonl'},{tmp_path / 'mine.yaml'}"
    flags = ("--model", tiny_model_dir, "--suite", suites, "--output_dir", tmp_path / "out", *LIMITS)
    outcome = dualselect("evaluate", *flags)
    assert outcome.code == 0, outcome.err
    requests, sums = (result(tmp_path / "out", name) for name in ("requests", "sums"))
    assert (requests.kind, [record.prompt for record in requests.records]) == ("safety", ["Harm me!"])
    assert requests.estimate("refusal-rules/refusal").n == 1
    assert (sums.kind, sums.records[0].expected, set(sums.metrics)) == ("utility", "4", {"exact_match"})


@pytest.mark.parametrize(("bound", "code", "word"), [(-0.1, 0, "SHIP"), (1.1, 3, "DON'T SHIP")])
def test_a_gate_decides_the_exit_code(dualselect, runs, bound, code, word):
    gate = runs / "gate.yaml"
    rule = {"suite": "builtin-safety", "metric": "refusal-rules/refusal", "at_least": bound}
    gate.write_text(yaml.safe_dump({"rules": [rule]}))
    flags = ("--suite", "builtin-safety", "--start", "none", "--gate", gate, *LIMITS)
    outcome = dualselect("evaluate", "--model", runs / "tuned", *flags)
    assert outcome.code == code
    assert outcome.out.rstrip().endswith(word)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--suite", "builtin-saftey"), "did you mean 'builtin-safety'"),
        (("--suite", "mine=nowhere.jsonl"), "nowhere.jsonl: no such file"),
        (("--judge", "refusl"), "did you mean 'refusal'"),
        (("--data", "advbench"), "is not SUITE=SOURCE"),
        (("--data", "gsm8k=x.jsonl"), "data are given for suite 'gsm8k'"),
        (("--limit", "0"), "limit is 0"),
        (("--gate", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--model", "nowhere/at/all/x"), "nowhere/at/all/x"),
        (("--temperature", "-1"), "temperature is -1"),
    ],
)
def test_mistakes_are_reported_in_one_line(dualselect, tiny_model_dir, flags, message):
    outcome = dualselect("evaluate", "--model", tiny_model_dir, *flags)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_suites_are_listed_with_their_licence(dualselect):
    outcome = dualselect("suites")
    assert outcome.code == 0
    assert "xstest" in outcome.out
    assert "CC BY 4.0" in outcome.out
