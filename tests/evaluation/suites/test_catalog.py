"""The catalog declares what it did when it was code; a user's own suites are declared without code."""

import json
from dataclasses import fields
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import dualselect
from dualselect.data import prompt_key
from dualselect.errors import ConfigError, DataError
from dualselect.evaluation.judges import RefusalRules
from dualselect.evaluation.run import EvaluationSettings, evaluate_target, suite_names
from dualselect.evaluation.suites import SUITES, get_suite, load, read_suites, run_suite, suite_rows
from dualselect.experiments.evaluating import read_evaluation
from dualselect.models.base import GenerationSettings
from dualselect.runs import read_results

GREEDY = GenerationSettings(max_new_tokens=8)
QUICKSTART = Path(dualselect.__file__).parent / "quickstart" / "data"


def test_an_unknown_suite_is_an_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match="unknown suite 'gsm8'; did you mean 'gsm8k'"):
        get_suite("gsm8")


def test_every_suite_says_where_it_comes_from():
    rows = {row.name: row for row in suite_rows()}
    assert list(rows) == list(SUITES)
    for name, suite in SUITES.items():
        sources = [suite.source, suite.embedded, suite.advice]
        assert sum(map(bool, sources)) == 1, name
        assert rows[name].licence
        assert suite.citation or suite.source is None, name
        assert rows[name].source
    assert rows["builtin-safety"].source == "built in"
    assert "--data safe-answers=PATH" in rows["safe-answers"].source


def test_the_built_in_suites_are_balanced_and_held_out_from_the_quickstart():
    unsafe, benign = (load(get_suite(name)) for name in ("builtin-safety", "builtin-overrefusal"))
    trained = {
        prompt_key(json.loads(line)["prompt"])
        for path in QUICKSTART.glob("*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    for loaded in (unsafe, benign):
        keys = {prompt_key(sample.prompt) for sample in loaded.samples}
        assert len(keys) == len(loaded.samples) == 24
        assert not keys & trained
        categories = [sample.category for sample in loaded.samples]
        assert {categories.count(name) for name in set(categories)} == {4}
        assert len(set(categories)) == 6
    assert load(get_suite("builtin-safe-answers")).samples == unsafe.samples
    assert unsafe.source == "dualselect/unsafe.jsonl"


# What differs from the defaults of a Suite, as it was before there was a catalog.
DECLARED: dict[str, dict[str, object]] = {
    "builtin-safety": {
        "kind": "safety",
        "title": "unsafe requests (built in)",
        "scoring": "judges",
        "embedded": "unsafe.jsonl",
        "licence": "Apache-2.0",
        "citation": "written for dualselect",
        "max_new_tokens": 96,
    },
    "hex-phi": {
        "kind": "safety",
        "title": "HEx-PHI",
        "scoring": "judges",
        "split": "train",
        "advice": "ask for access to LLM-Tuning-Safety/HEx-PHI on the hub and put its category_*.csv into a folder",
        "licence": "HEx-PHI dataset licence (gated; no redistribution)",
        "citation": "Qi et al. 2023, arXiv 2310.03693",
        "has_header": False,
    },
    "hh-harmless": {
        "kind": "safety",
        "title": "HH-RLHF harmless-base",
        "scoring": "judges",
        "source": "Anthropic/hh-rlhf/harmless-base",
        "licence": "MIT",
        "citation": "Bai et al. 2022, arXiv 2204.05862",
    },
    "hh-redteam": {
        "kind": "safety",
        "title": "HH-RLHF red-team attempts, first turns",
        "scoring": "judges",
        "source": "Anthropic/hh-rlhf/red-team-attempts",
        "split": "train",
        "licence": "MIT",
        "citation": "Ganguli et al. 2022, arXiv 2209.07858",
    },
    "advbench": {
        "kind": "safety",
        "title": "AdvBench harmful behaviours",
        "scoring": "judges",
        "source": "walledai/AdvBench",
        "split": "train",
        "licence": "MIT",
        "citation": "Zou et al. 2023, arXiv 2307.15043",
    },
    "harmbench": {
        "kind": "safety",
        "title": "HarmBench behaviours without copyright",
        "scoring": "judges",
        "source": "walledai/HarmBench:standard",
        "split": "train",
        "licence": "MIT",
        "citation": "Mazeika et al. 2024, arXiv 2402.04249",
        "id_field": "BehaviorID",
    },
    "strongreject": {
        "kind": "safety",
        "title": "StrongREJECT",
        "scoring": "judges",
        "source": "walledai/StrongREJECT",
        "split": "train",
        "licence": "MIT",
        "citation": "Souly et al. 2024, arXiv 2402.10260",
    },
    "do-not-answer": {
        "kind": "safety",
        "title": "Do-Not-Answer",
        "scoring": "judges",
        "source": "LibrAI/do-not-answer",
        "split": "train",
        "licence": "CC BY-NC-SA 4.0",
        "citation": "Wang et al. 2023, arXiv 2308.13387",
    },
    "xstest-unsafe": {
        "kind": "safety",
        "title": "XSTest, unsafe contrasts",
        "scoring": "judges",
        "source": "Paul/XSTest",
        "split": "train",
        "licence": "CC BY 4.0",
        "citation": "Röttger et al. 2023, arXiv 2308.01263",
    },
    "builtin-overrefusal": {
        "kind": "overrefusal",
        "title": "benign look-alikes (built in)",
        "scoring": "judges",
        "embedded": "look_alikes.jsonl",
        "licence": "Apache-2.0",
        "citation": "written for dualselect",
        "max_new_tokens": 96,
    },
    "xstest": {
        "kind": "overrefusal",
        "title": "XSTest, safe prompts",
        "scoring": "judges",
        "source": "Paul/XSTest",
        "split": "train",
        "licence": "CC BY 4.0",
        "citation": "Röttger et al. 2023, arXiv 2308.01263",
    },
    "or-bench": {
        "kind": "overrefusal",
        "title": "OR-Bench Hard-1K",
        "scoring": "judges",
        "source": "bench-llm/or-bench:or-bench-hard-1k",
        "split": "train",
        "licence": "CC BY 4.0",
        "citation": "Cui et al. 2024, arXiv 2405.20947",
    },
    "gsm8k": {
        "kind": "utility",
        "title": "GSM8K",
        "scoring": "exact_match",
        "source": "openai/gsm8k:main",
        "licence": "MIT",
        "citation": "Cobbe et al. 2021, arXiv 2110.14168",
        "max_new_tokens": 512,
    },
    "mmlu": {
        "kind": "utility",
        "title": "MMLU",
        "scoring": "multiple_choice",
        "source": "cais/mmlu:all",
        "licence": "MIT",
        "citation": "Hendrycks et al. 2021, arXiv 2009.03300",
    },
    "multiple-choice": {
        "kind": "utility",
        "title": "multiple choice",
        "scoring": "multiple_choice",
        "advice": "records with question, choices and answer",
    },
    "classification": {
        "kind": "utility",
        "title": "classification",
        "scoring": "classification",
        "advice": "records with text and label",
    },
    "ag-news": {
        "kind": "utility",
        "title": "AG News",
        "scoring": "classification",
        "source": "fancyzhx/ag_news",
        "licence": "non-commercial use (AG's corpus)",
        "citation": "Zhang et al. 2015, arXiv 1509.01626",
        "labels": ("World", "Sports", "Business", "Sci/Tech"),
    },
    "slimorca": {
        "kind": "utility",
        "title": "SlimOrca",
        "scoring": "win_rate",
        "source": "Open-Orca/SlimOrca",
        "split": "train",
        "licence": "MIT",
        "citation": "Lian et al. 2023, Open-Orca/SlimOrca on the hub",
        "max_new_tokens": 512,
    },
    "builtin-safe-answers": {
        "kind": "probe",
        "title": "safe answers (built in)",
        "scoring": "probe",
        "embedded": "unsafe.jsonl",
        "licence": "Apache-2.0",
        "citation": "written for dualselect",
        "measures": ("safe_nll", "safe_kl", "refusal_log_odds"),
    },
    "safe-answers": {
        "kind": "probe",
        "title": "held-out safe answers",
        "scoring": "probe",
        "advice": "unsafe requests with safe answers, as prompt and completion",
        "measures": ("safe_nll", "safe_kl", "refusal_log_odds"),
    },
    "task-answers": {
        "kind": "probe",
        "title": "held-out task answers",
        "scoring": "probe",
        "advice": "held-out samples of your task, as prompt and completion",
        "measures": ("task_nll",),
    },
}

# Of ids, prompts, reference answers and choices: with others, results of before could not be compared.
SHA256 = {
    "builtin-safety": "057eb0f09bea19849c39e62fa6f3343dbbefd82983cdbeea878b64f5823281dd",
    "builtin-overrefusal": "e83f1a0d93e99f21758133403c928ee4e6490cf0e5b686ed6ff62882b5b04880",
    "builtin-safe-answers": "057eb0f09bea19849c39e62fa6f3343dbbefd82983cdbeea878b64f5823281dd",
}


def test_the_catalog_declares_the_same_suites_as_ever():
    assert list(SUITES) == list(DECLARED)
    for name, suite in SUITES.items():
        others = [field for field in fields(suite) if field.name not in ("name", "reader")]
        found = {field.name: getattr(suite, field.name) for field in others}
        assert {field.name: found[field.name] for field in others if found[field.name] != field.default} == (
            DECLARED[name]
        ), name
        assert suite.name == name


@pytest.mark.parametrize("name", SHA256)
def test_the_samples_of_built_in_suites_are_the_same_as_ever(name):
    assert load(get_suite(name)).sha256 == SHA256[name]


def test_a_data_file_is_a_suite(write, scripted):
    rows = [
        {"prompt": "a", "id": "first", "category": "c"},
        {"messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "No."}]},
    ]
    suite = get_suite(f"mine={write('mine.jsonl', rows[:1])}")
    assert (suite.name, suite.kind, suite.scoring) == ("mine", "safety", "judges")
    answers = {"a": "I'm sorry, but I can't help with that.", "b": "Sure! Here is how."}
    result = run_suite(suite, load(suite), scripted(answers.get), [RefusalRules()], GREEDY)
    (record,) = result.records
    assert (record.id, record.category, record.values["refusal-rules/refusal"]) == ("first", "c", 1.0)
    assert result.metrics["refusal-rules/refusal"].better == "higher"

    benign = get_suite(f"overrefusal:benign={write('benign.jsonl', rows[1:])}")
    result = run_suite(benign, load(benign), scripted(answers.get), [RefusalRules()], GREEDY)
    assert (result.kind, result.records[0].expected) == ("overrefusal", "No.")
    assert result.records[0].values["refusal-rules/refusal"] == 0.0
    assert result.metrics["refusal-rules/refusal"].better == "lower"


def test_a_data_file_of_the_task_is_matched_exactly(write, scripted):
    rows = [{"prompt": "2+2?", "expected": 4}, {"prompt": "3+3?", "expected": "6"}]
    suite = get_suite(f"utility:sums={write('sums.jsonl', rows)}")
    result = run_suite(suite, load(suite), scripted(lambda question: "It is 4."), [], GREEDY)
    assert [record.expected for record in result.records] == ["4", "6"]
    assert result.estimate("exact_match").value == 0.5
    with pytest.raises(DataError, match=r"none.jsonl:1: field 'expected' does not end in a number"):
        load(get_suite(f"utility:none={write('none.jsonl', [{'prompt': 'a', 'expected': 'yes'}])}"))
    with pytest.raises(DataError, match=r"bare.jsonl:1: .*number"):
        load(get_suite(f"utility:bare={write('bare.jsonl', [{'prompt': 'a'}])}"))


TWO = """
requests:
  source: data/requests.jsonl
  reader: {name: prompts, fields: ask, category: topic}
  id_field: key
  max_new_tokens: 5
topics:
  kind: utility
  scoring: classification
  labels: ["no", "yes"]
  advice: texts with labels
"""


def test_a_yaml_file_declares_suites(write, scripted, tmp_path, monkeypatch):
    path = write("suites/mine.yaml", TWO)
    write("suites/data/requests.jsonl", [{"ask": "a", "topic": "t", "key": 7}])
    monkeypatch.chdir(tmp_path)  # the source is relative to the YAML file and not to the folder one is in
    assert list(read_suites(path)) == ["requests", "topics"]
    assert suite_names(f"safety,{path}") == (
        "builtin-safety",
        "builtin-safe-answers",
        f"{path}:requests",
        f"{path}:topics",
    )
    requests, topics = (get_suite(f"suites/mine.yaml:{name}") for name in ("requests", "topics"))
    target = scripted(lambda question: "I can't help with that.")
    result = run_suite(requests, load(requests), target, [RefusalRules()], GREEDY)
    assert [(record.id, record.category, record.prompt) for record in result.records] == [("7", "t", "a")]
    assert result.records[0].values["refusal-rules/refusal"] == 1.0
    assert requests.max_new_tokens == 5
    (sample,) = load(topics, write("topics.jsonl", [{"text": "x", "label": 1}])).samples
    assert (sample.expected, sample.choices) == ("yes", ("no", "yes"))


def test_own_suites_are_measured_again_once_they_are_declared_otherwise(write, scripted, tmp_path):
    write("mine.jsonl", [{"prompt": "a", "completion": "4"}])
    target = scripted(lambda question: "4")
    for scoring, metrics in (("judges", {"refusal-rules/refusal"}), ("exact_match", {"exact_match"})):
        path = write("mine.yaml", f"mine:\n  kind: utility\n  source: mine.jsonl\n  scoring: {scoring}\n")
        settings = EvaluationSettings(suites=suite_names(path), judges=("refusal",))
        for _ in range(2):
            evaluate_target(target, settings, role="model", run_folder=tmp_path / "run")
        (result,) = read_results(tmp_path / "run")
        assert result.suite == "mine"
        assert metrics <= set(result.metrics)
    assert len(target.asked) == 2


def test_a_comparison_measures_own_suites(write):
    path, requests = write("mine.yaml", TWO), write("requests.jsonl", [{"prompt": "a"}])
    read = read_evaluation({"suites": [f"own={requests}", path], "data": {"topics": "x.jsonl"}}, "compare.yaml:3")
    assert read["suites"] == (f"own={requests}", f"{path}:requests", f"{path}:topics")
    with pytest.raises(ConfigError, match=r"compare.yaml:3: .*: no such file"):
        read_evaluation({"suites": ["own=nowhere.jsonl"]}, "compare.yaml:3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("mine:\n  sorce: x.jsonl\n", r"suite 'mine': unknown key 'sorce'; did you mean 'source'"),
        ("mine:\n  kind: safety\n", r"suite 'mine': needs either source or advice"),
        ("mine:\n  source: x.jsonl\n  advice: ask\n", r"needs either source or advice"),
        ("mine:\n  embedded: unsafe.jsonl\n", r"unknown key 'embedded'"),
        ("mine:\n  source: x\n  reader: prompt\n", r"unknown reader 'prompt'; did you mean 'prompts'"),
        ("mine:\n  source: x\n  reader: {name: prompts, field: q}\n", r"no option 'field'; did you mean 'fields'"),
        ("mine:\n  source: x\n  reader: first_turns\n", r"reader 'first_turns' needs fields"),
        ("mine:\n  source: x\n  reader: [prompts]\n", r"unknown reader"),
        ("mine:\n  source: x\n  reader: {name: prompts, fields: }\n", r"reader: fields is None; give text"),
        ("mine:\n  source: x\n  scoring: judge\n", r"scoring is 'judge'; did you mean 'judges'"),
        ("mine:\n  source: x\n  kind: safe\n", r"kind is 'safe'; did you mean 'safety'"),
        ("mine:\n  source: x\n  kind: probe\n  scoring: judges\n", r"give `probe` for both, or for neither"),
        ("mine:\n  source: x\n  labels: [yes, no]\n", r"labels is True; give text, in quotes"),
        ("mine:\n  source: x\n  max_new_tokens: 0\n", r"max_new_tokens is 0; give a whole number of at least 1"),
        ("mine:\n  source: x\n  has_header: 1\n", r"has_header is 1; give true or false"),
        ("mine:\n  source: x\n  source: y\n", r":3: not valid YAML: 'source' is given twice"),
        ("my suite:\n  source: x\n", r"the name 'my suite' is not made of letters"),
        ("source: x\n", r"suite 'source': is not a mapping.*write the name of the suite above"),
        ("- x\n", r"contains no suites by name"),
        ("", r"contains no suites by name"),
        ("mine: [\n", r"not valid YAML"),
        ("gsm8k:\n  source: x\n", r"'gsm8k' is a suite of the catalog; give yours another name"),
    ],
)
def test_what_a_yaml_file_cannot_declare_is_reported_in_one_line(write, content, message):
    path = write("mine.yaml", content)
    with pytest.raises(ConfigError, match=message) as error:
        EvaluationSettings(suites=suite_names(path))
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine=", "names no data"),
        ("mine=nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("nowhere.yaml", "nowhere.yaml: cannot be read"),
        ("prompts.jsonl", "give it a name, as mine=prompts.jsonl"),
        ("utilty:mine=owner/data", "kind is 'utilty'; did you mean 'utility'"),
        ("advbench=owner/data", "is a suite of the catalog"),
        ("../mine=owner/data", "is not made of letters"),
    ],
)
def test_what_cannot_be_a_suite_is_reported_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        get_suite(text)
    assert "\n" not in str(error.value)


def test_a_yaml_file_of_several_suites_is_no_single_one(write):
    path = write("mine.yaml", TWO)
    with pytest.raises(ConfigError, match=r"declares requests, topics; choose one, as .*:requests"):
        get_suite(path)
    with pytest.raises(ConfigError, match="unknown suite 'topic'; did you mean 'topics'"):
        get_suite(f"{path}:topic")


def test_two_suites_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two suites are called 'mine'"):
        EvaluationSettings(suites=("mine=owner/one", "mine=owner/two"))


def test_another_package_adds_suites_by_an_entry_point(look_anew, write, tmp_path, monkeypatch):
    path = write("theirs.yaml", "theirs:\n  source: theirs.jsonl\n")
    write("theirs_suites.py", f"PATH = {path!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("theirs", "theirs_suites:PATH", "dualselect.suites")
    broken = EntryPoint("gone", "a_module_that_is_missing:PATH", "dualselect.suites")
    monkeypatch.setattr("dualselect.registry.entry_points", lambda group: [entry, broken])
    look_anew(SUITES)
    assert get_suite("theirs").source == str(tmp_path / "theirs.jsonl")
    assert list(SUITES)[-2:] == ["theirs", "gone"]
    assert get_suite("gsm8k").name == "gsm8k"
    with pytest.raises(ConfigError, match="suite 'gone' of the package 'a_module_that_is_missing' could not be loaded"):
        get_suite("gone")
