"""Values are what the answers, the judges and single forward passes say."""

import math
from copy import deepcopy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from dualselect.errors import ConfigError
from dualselect.evaluation.judges import RefusalRules
from dualselect.evaluation.judges.base import Judge
from dualselect.evaluation.suites import get_suite, load, run_suite
from dualselect.models.base import GenerationSettings
from dualselect.models.thoughts import Answer
from dualselect.runs.results import SuiteResult, Verdict

GREEDY = GenerationSettings(max_new_tokens=8, batch_size=4)


class LengthJudge(Judge):
    """Calls answers of more than ten characters unsafe, and has no verdict on empty ones."""

    name, version, labels = "length", "2", ("unsafe", "safe")
    measures = {"unsafe": frozenset({"unsafe"}), "wordy": frozenset({"unsafe"})}  # noqa: RUF012

    def judge(self, prompt, answer):
        return Verdict(None, "empty") if not answer else Verdict("unsafe" if len(answer) > 10 else "safe")


def log_probs(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def test_answers_are_judged_by_all_judges(write, scripted, tmp_path):
    answers = {"a": "I can't help with that.", "b": "Sure: do it", "c": ""}
    loaded = load(get_suite("advbench"), write("data.jsonl", [{"prompt": text} for text in answers]))
    judges = [RefusalRules(), LengthJudge()]
    result = run_suite(get_suite("advbench"), loaded, scripted(answers.get), judges, GREEDY, role="baseline", seed=3)
    assert [record.answer for record in result.records] == list(answers.values())
    assert result.values("refusal-rules/refusal") == [1.0, 0.0, 0.0]
    assert result.values("refusal-rules/empty") == [0.0, 0.0, 1.0]
    assert result.values("length/unsafe") == [1.0, 1.0, None]
    assert [record.verdicts["length"].label for record in result.records] == ["unsafe", "unsafe", None]
    assert set(result.metrics) == {*result.records[0].values}
    assert result.judges == {"refusal-rules": RefusalRules.version, "length": "2"}
    assert (result.role, result.seed, result.licence) == ("baseline", 3, "MIT")
    assert result.source == {"name": loaded.source, "sha256": loaded.sha256}
    assert SuiteResult.read(result.write(tmp_path)) == result


def test_thoughts_are_no_part_of_an_answer(write, scripted, tmp_path):
    """Two hundred words of thought before a refusal change nothing; a thought that was cut off is no verdict."""
    answers = {
        "a": "<think>" + "They ask for harm. " * 50 + "</think> I can't help with that.",
        "b": "<think>I can't help with that, I think, so",
        "c": "I can't help with that.",
    }
    loaded = load(get_suite("advbench"), write("data.jsonl", [{"prompt": text} for text in answers]))
    result = run_suite(get_suite("advbench"), loaded, scripted(answers.get), [RefusalRules(), LengthJudge()], GREEDY)
    assert [record.answer for record in result.records] == ["I can't help with that.", None, "I can't help with that."]
    assert result.values("refusal-rules/refusal") == [1.0, None, 1.0]
    assert result.values("length/unsafe") == [1.0, None, 1.0]
    assert "ends within a thought" in result.records[1].verdicts["length"].evidence
    assert result.records[0].thought.startswith("They ask for harm.")
    assert result.estimate("refusal-rules/refusal").missing == 1
    assert SuiteResult.read(result.write(tmp_path)) == result


def test_exact_match_looks_at_the_answer_behind_the_thought(write, scripted):
    answers = {
        "a": "<think>the answer is 12</think> Two boxes contain 24 pens.",
        "b": "<think>the answer is 24",
        "c": "It is 24, I think.",
    }
    rows = [{"question": text, "answer": "#### 24"} for text in answers]
    loaded = load(get_suite("gsm8k"), write("data.jsonl", rows))
    result = run_suite(get_suite("gsm8k"), loaded, scripted(answers.get), [], GREEDY)
    assert result.values("exact_match") == [1.0, None, 1.0]


def test_a_thought_that_the_prompt_has_opened_is_cut_off_too(write, scripted):
    answers = {
        "a": Answer("They ask for harm.</think> I can't help with that.", "stop", opened=True),
        "b": Answer("I can't help with that, so", "length", opened=True),
        "c": Answer("I can't help with that.", "stop", opened=True),  # a tuned model that thinks no more
        "d": Answer("I can't help with that, so", "length"),
    }
    loaded = load(get_suite("advbench"), write("data.jsonl", [{"prompt": text} for text in answers]))
    result = run_suite(get_suite("advbench"), loaded, scripted(answers.get), [RefusalRules()], GREEDY)
    assert result.values("refusal-rules/refusal") == [1.0, None, 1.0, 1.0]


def test_a_prompt_without_an_answer_is_missing_and_its_reason_is_kept(write, scripted, tmp_path):
    target = scripted({"a": Answer(None, reason="refused by a content filter"), "b": "I can't help with that."}.get)
    loaded = load(get_suite("advbench"), write("data.jsonl", [{"prompt": "a"}, {"prompt": "b"}]))
    result = run_suite(get_suite("advbench"), loaded, target, [RefusalRules()], GREEDY)
    assert [record.answer for record in result.records] == [None, "I can't help with that."]
    assert result.values("refusal-rules/refusal") == [None, 1.0]
    assert result.values("refusal-rules/empty") == [None, 0.0]
    assert result.records[0].verdicts["refusal-rules"] == Verdict(None, "refused by a content filter")
    assert SuiteResult.read(result.write(tmp_path)) == result
    rows = [{"question": text, "answer": "#### 24"} for text in "ab"]
    loaded = load(get_suite("gsm8k"), write("problems.jsonl", rows))
    assert run_suite(get_suite("gsm8k"), loaded, target, [], GREEDY).values("exact_match") == [None, 0.0]


def test_a_judge_that_scores_gives_scores(scripted):
    class Reward(LengthJudge):
        name, measures = "rm", {}

        def values(self, verdict):
            return {"rm/reward": verdict.score}

        def judge(self, prompt, answer):
            return Verdict(None) if prompt.startswith("W") else Verdict("scored", score=len(prompt) / 10)

    suite = get_suite("builtin-safety")
    result = run_suite(suite, load(suite), scripted(lambda _: "Yes."), [Reward()], GREEDY)
    for record in result.records:
        expected = None if record.prompt.startswith("W") else len(record.prompt) / 10
        assert record.values == {"rm/reward": expected}
    metric = result.metrics["rm/reward"]
    assert (metric.title, metric.better, metric.unit) == ("reward (rm)", "higher", "score")


def test_declining_is_right_on_unsafe_requests_and_wrong_on_benign_ones(scripted):
    judges = [RefusalRules(), LengthJudge()]
    directions = {}
    for name in ("builtin-safety", "builtin-overrefusal"):
        suite = get_suite(name)
        metrics = run_suite(suite, load(suite), scripted(lambda _: "Yes."), judges, GREEDY).metrics
        directions[name] = {name: metric.better for name, metric in metrics.items()}
    both = {"length/unsafe": "lower", "refusal-rules/empty": "lower", "refusal-rules/incoherent": "lower"}
    both["length/wordy"] = "neither"  # nobody has said what it means
    assert directions["builtin-safety"] == {"refusal-rules/refusal": "higher", **both}
    assert directions["builtin-overrefusal"] == {"refusal-rules/refusal": "lower", **both}


def test_problems_are_matched_exactly_and_not_judged(write, scripted):
    records = [{"question": "3 + 4", "answer": "#### 7"}, {"question": "2 * 3", "answer": "#### 6"}]
    loaded = load(get_suite("gsm8k"), write("data.jsonl", records))
    target = scripted(lambda question: "The answer is $7.00.")
    result = run_suite(get_suite("gsm8k"), loaded, target, [RefusalRules()], GREEDY)
    assert result.values("exact_match") == [1.0, 0.0]
    assert set(result.metrics) == {"exact_match"}
    assert result.judges == {}
    assert target.asked == [([sample.prompt for sample in loaded.samples], GREEDY)]


def test_answers_for_a_comparison_are_kept_without_a_judge(write, scripted):
    loaded = load(get_suite("slimorca"), write("data.jsonl", [{"prompt": "a", "completion": "x"}]))
    result = run_suite(get_suite("slimorca"), loaded, scripted(str.upper), [], GREEDY)
    assert [(record.answer, record.expected) for record in result.records] == [("A", "x")]
    assert result.metrics == {}


def test_the_likeliest_choice_is_the_answer(write, in_memory, model, tokenizer):
    records = [
        {"text": text, "label": label} for text, label in (("red", "one"), ("blue", "two three"), ("six", "one"))
    ]
    suite = get_suite("classification")
    loaded = load(suite, write("data.jsonl", records))
    result = run_suite(suite, loaded, in_memory("tiny", model, tokenizer), [], GREEDY, batch_size=4)
    for sample, record in zip(loaded.samples, result.records, strict=True):
        start = tokenizer(f"user : {sample.question} <end> assistant :")["input_ids"]
        scores = {}
        for label in ("one", "two three"):
            ids = [*start, *tokenizer(f"{label} <end>")["input_ids"]]
            rows = log_probs(model, ids)
            scores[label] = sum(float(rows[place - 1, ids[place]]) for place in range(len(start), len(ids)))
        assert record.answer == max(scores, key=scores.get)
        assert record.values["accuracy"] == float(record.answer == sample.expected)
    assert result.metrics["accuracy"].better == "higher"


def test_probes_equal_single_forward_passes(write, in_memory, model, make_model, tokenizer, monkeypatch):
    suite = get_suite("safe-answers")
    loaded = load(
        suite,
        write("data.jsonl", [{"prompt": "red", "completion": "one two"}, {"prompt": "six", "completion": "five"}]),
    )
    base = in_memory("start", make_model(1), tokenizer)
    target = in_memory("tuned", model, tokenizer)
    settings = GenerationSettings(system="blue green")
    monkeypatch.setattr("dualselect.evaluation.probes.REFUSAL_OPENERS", ("red one",))
    monkeypatch.setattr("dualselect.evaluation.probes.COMPLIANCE_OPENERS", ("green",))
    result = run_suite(suite, loaded, target, [], settings, base=base)
    for record in result.records:
        start = tokenizer(f"system : blue green <end> user : {record.prompt} <end> assistant :")["input_ids"]
        ids = [*start, *tokenizer(f"{record.expected} <end>")["input_ids"]]
        p, q = log_probs(model, ids), log_probs(base.model, ids)
        places = range(len(start), len(ids))
        nll = -sum(float(p[place - 1, ids[place]]) for place in places) / len(places)
        kl = sum(float((q[place - 1].exp() * (q[place - 1] - p[place - 1])).sum()) for place in places) / len(places)
        first = p[len(start) - 1]
        red, green = tokenizer.convert_tokens_to_ids(["red", "green"])
        assert record.values["safe_nll"] == pytest.approx(nll, rel=1e-4)
        assert record.values["safe_kl"] == pytest.approx(kl, rel=1e-3)
        assert record.values["refusal_log_odds"] == pytest.approx(float(first[red] - first[green]), rel=1e-4, abs=1e-5)
        assert record.answer is None
    better = {name: (metric.better, metric.unit) for name, metric in result.metrics.items()}
    assert better == {
        "safe_nll": ("lower", "nats"),
        "safe_kl": ("lower", "nats"),
        "refusal_log_odds": ("higher", "nats"),
    }
    assert result.settings["kl_from"] == base.identity


def test_the_start_is_at_no_distance_from_itself_and_a_tuned_model_is_from_its_own_base(
    write, in_memory, model, make_model, tokenizer, monkeypatch
):
    monkeypatch.setattr("dualselect.evaluation.probes.REFUSAL_OPENERS", ("red one",))
    suite = get_suite("safe-answers")
    loaded = load(suite, write("data.jsonl", [{"prompt": "red", "completion": "one two"}]))
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = in_memory("tuned", get_peft_model(model, config), tokenizer)
    monkeypatch.setattr("dualselect.evaluation.probes.COMPLIANCE_OPENERS", ("green",))

    def kl(base):
        return run_suite(suite, loaded, tuned, [], GREEDY, base=base).values("safe_kl")

    assert kl(tuned) == [0.0]
    (own,) = kl(in_memory("start", tuned.model, tokenizer))
    assert own == pytest.approx(kl(in_memory("other", make_model(0), tokenizer))[0], rel=1e-5)
    assert own > 0
    assert kl(None) == [None]


def test_a_task_probe_needs_no_openers_and_no_base(write, in_memory, model, tokenizer):
    suite = get_suite("task-answers")
    loaded = load(suite, write("data.jsonl", [{"prompt": "red", "completion": "one"}]))
    result = run_suite(suite, loaded, in_memory("tuned", model, tokenizer), [], GREEDY)
    assert set(result.metrics) == {"task_nll"}
    ids = tokenizer("user : red <end> assistant : one <end>")["input_ids"]
    rows = log_probs(model, ids)
    expected = -(rows[-3, ids[-2]] + rows[-2, ids[-1]]) / 2
    assert result.records[0].values["task_nll"] == pytest.approx(float(expected), rel=1e-4)
    assert math.isclose(result.estimate("task_nll").value, result.records[0].values["task_nll"])


def test_what_the_target_cannot_tell_is_an_error(write, scripted, in_memory, model, make_model, tokenizer):
    probe = get_suite("safe-answers")
    loaded = load(probe, write("data.jsonl", [{"prompt": "red", "completion": "one"}]))
    with pytest.raises(ConfigError, match=r"suite 'safe-answers'.*'scripted' does not give.*leave the suite out"):
        run_suite(probe, loaded, scripted(str.upper), [], GREEDY)
    with pytest.raises(ConfigError, match=r"suite 'advbench' needs a judge.*--judge refusal"):
        run_suite(get_suite("advbench"), loaded, scripted(str.upper), [], GREEDY)
    target = in_memory("tuned", model, tokenizer)
    with pytest.raises(ConfigError, match="'twin' is the same model as 'tuned'"):
        run_suite(probe, loaded, target, [], GREEDY, base=in_memory("twin", model, tokenizer))
    wider = deepcopy(tokenizer)
    wider.add_tokens(["seven"])
    other = in_memory("other", make_model(1), wider)
    with pytest.raises(ConfigError, match="'other' has another vocabulary than 'tuned'"):
        run_suite(probe, loaded, target, [], GREEDY, base=other)
