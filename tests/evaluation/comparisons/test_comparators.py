import importlib
import json
import sys

import pytest

from dualselect.errors import ConfigError
from dualselect.evaluation.comparisons import (
    COMPARATORS,
    ApiComparator,
    JudgeComparator,
    RewardComparator,
    compare_answers,
    parse_comparator,
)
from dualselect.evaluation.comparisons.api import read_preference
from dualselect.evaluation.judges import RefusalRules, RewardJudge, parse_judges
from dualselect.models.endpoint import Reply
from dualselect.runs import Verdict

REFUSAL, ANSWER = "I can't help with that.", "Sure: take two cups."


def test_the_refusal_wins_and_equal_labels_tie() -> None:
    comparator = JudgeComparator(RefusalRules())
    firsts, seconds = [REFUSAL, ANSWER, REFUSAL, ANSWER], [ANSWER, REFUSAL, REFUSAL, ANSWER]
    assert comparator.prefer_all(["p"] * 4, firsts, seconds) == ["first", "second", "tie", "tie"]
    assert comparator.version == f"{RefusalRules.version}, preferring refusal"


def test_other_labels_can_be_preferred() -> None:
    comparator = JudgeComparator(RefusalRules(), frozenset({"answer"}))
    assert comparator.prefer_all(["p"], [REFUSAL], [ANSWER]) == ["second"]


def test_a_verdict_that_is_none_is_no_preference(monkeypatch) -> None:
    (guard,) = parse_judges("guard:org/wildguard")
    verdicts = {"safe": Verdict("safe"), "unsafe": Verdict("unsafe"), "?": Verdict(None)}
    monkeypatch.setattr(guard, "judge_all", lambda prompts, answers: [verdicts[answer] for answer in answers])
    comparator = JudgeComparator(guard)
    assert comparator.prefer_all(["p"] * 3, ["safe", "?", "safe"], ["unsafe", "safe", "?"]) == ["first", None, None]


def test_answers_are_judged_once_for_both_orders(make_result, monkeypatch) -> None:
    seen = []
    rules = RefusalRules()
    monkeypatch.setattr(
        RefusalRules,
        "judge_all",
        lambda self, prompts, answers: seen.extend(answers) or [rules.judge("", a) for a in answers],
    )
    ours, theirs = make_result({"1": REFUSAL, "2": ANSWER}), make_result({"1": ANSWER, "2": ANSWER}, role="baseline")
    result = compare_answers(ours, theirs, JudgeComparator(rules))
    assert result.values("refusal-rules/win_rate") == [1.0, 0.5]
    assert result.values("refusal-rules/flipped") == [0.0, 0.0]
    assert len(seen) == 3  # prompt 2 has the same answer twice


def test_a_judge_without_a_label_to_prefer_is_named() -> None:
    with pytest.raises(ConfigError, match="name one or more of scored"):
        JudgeComparator(RewardJudge("org/m"))


def test_rewards_within_the_margin_tie(monkeypatch) -> None:
    judge = RewardJudge("org/m")
    scores = {"a": 1.0, "b": 1.4, "c": -2.0, "?": None}
    monkeypatch.setattr(
        judge, "judge_all", lambda prompts, answers: [Verdict("scored", score=scores[answer]) for answer in answers]
    )
    firsts, seconds = ["a", "b", "c", "a", "?"], ["b", "a", "a", "a", "b"]
    assert RewardComparator(judge).prefer_all(["p"] * 5, firsts, seconds) == ["second", "first", "second", "tie", None]
    close = RewardComparator(judge, margin=0.5)
    assert close.prefer_all(["p"] * 5, firsts, seconds) == ["tie", "tie", "second", "tie", None]


class FakeEndpoint:
    """Prefers what the request shows first, and fails where the prompt is `broken`."""

    model = "org/m"

    def __init__(self):
        self.requests = []

    def ask_all(self, requests, description):
        self.requests += requests
        shown = [json.loads(request.rsplit("\n\n", 1)[1]) for request in requests]
        return [
            Reply(None, "gone") if item["request"] == "prompt broken" else Reply('{"better": "first", "reason": ""}')
            for item in shown
        ]


def test_a_model_that_prefers_the_first_is_found_out(make_result) -> None:
    comparator = ApiComparator(FakeEndpoint())
    answers = {"1": "A", "broken": "A"}
    result = compare_answers(make_result(answers), make_result(dict.fromkeys(answers, "B")), comparator)
    assert result.values("api-m/win_rate") == [0.5, None]
    assert result.values("api-m/flipped") == [1.0, None]
    content = comparator.endpoint.requests[0]
    assert content.startswith("You compare two answers")
    assert json.loads(content.rsplit("\n\n", 1)[1]) == {"request": "prompt 1", "first": "A", "second": "B"}


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ('{"better": "second", "reason": "x"}', "second"),
        ('Well: {"better": "Tie"}', "tie"),
        ('{"better": "first, second or tie"}', None),
        ('{"better": "first"} {"better": "second"}', None),
        ('{"better": "neither"}', None),
        ("first", None),
        ("", None),
        (None, None),
    ],
)
def test_preferences_are_read_or_none(text, preference) -> None:
    assert read_preference(Reply(text)) == preference


def test_specs_become_comparators() -> None:
    assert type(parse_comparator("api:m@http://127.0.0.1:1/v1")) is ApiComparator
    assert type(parse_comparator("reward:org/m")) is RewardComparator
    comparator = parse_comparator("guard")
    assert type(comparator) is JudgeComparator
    assert comparator.preferred == {"safe"}
    with pytest.raises(ConfigError, match="unknown judge 'gard'"):
        parse_comparator("gard")


def test_a_comparator_of_another_package_is_asked_for_by_its_name(look_anew, tmp_path, monkeypatch) -> None:
    (tmp_path / "brevity.py").write_text(
        "from dualselect.evaluation.comparisons import Comparator\n"
        "class Shorter(Comparator):\n"
        "    name, version = 'shorter', '1'\n"
        "    def prefer_all(self, prompts, firsts, seconds):\n"
        "        return ['first' if len(a) < len(b) else 'second' for a, b in zip(firsts, seconds)]\n"
    )
    about = tmp_path / "brevity-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brevity\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[dualselect.comparators]\nshorter = brevity:Shorter\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    look_anew(COMPARATORS)
    monkeypatch.delitem(sys.modules, "brevity", raising=False)
    assert parse_comparator("shorter").prefer_all(["p"], ["long"], ["s"]) == ["second"]
    with pytest.raises(ConfigError, match="comparator shorter: takes nothing after its name, but got ':very'"):
        parse_comparator("shorter:very")
