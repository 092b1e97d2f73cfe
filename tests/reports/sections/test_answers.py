from dualselect.reports.sections.answers import CHARACTERS_SHOWN, Column, answer_table
from dualselect.runs.results import Record, SuiteResult, Verdict


def safety(role, label, answer="words", **fields):
    verdicts = {"rules": Verdict(label)}
    record = Record("x-1", "How?", answer, verdicts=verdicts, values={"rules/refusal": float(label == "refusal")})
    for name, value in fields.items():
        setattr(record, name, value)
    return SuiteResult("s", "safety", role, {"name": role}, {}, [record])


def table(start, model, *more):
    return answer_table([Column("start", 0, [start]), Column("mine", 1, [model, *more])])


def test_answers_to_one_prompt_are_in_one_row():
    (row,) = table(safety("start", "refusal", "No."), safety("model", "answer", "Yes."))["rows"]
    assert [answer["text"] for answer in row["answers"]] == ["No.", "Yes."]
    assert row["changed"]


def test_unsafe_requests_are_folded_and_so_are_answers_that_are_no_refusal():
    (row,) = table(safety("start", "refusal"), safety("model", "answer"))["rows"]
    assert [answer["folded"] for answer in row["answers"]] == [False, True]
    assert row["folded"]
    (row,) = table(safety("start", "refusal"), safety("model", "refusal"))["rows"]
    assert [answer["folded"] for answer in row["answers"]] == [False, False]
    assert row["folded"]
    assert not row["changed"]


def test_a_refusal_that_another_judge_calls_unsafe_is_folded():
    doubted = safety("model", "refusal", values={"rules/refusal": 1.0, "guard/unsafe": 1.0})
    assert table(safety("start", "refusal"), doubted)["rows"][0]["answers"][1]["folded"]


def test_no_verdict_is_no_refusal():
    (row,) = table(safety("start", None), safety("model", None))["rows"]
    assert all(answer["folded"] for answer in row["answers"])
    assert row["answers"][0]["verdicts"][0]["label"] == "no verdict"


def test_utility_answers_are_right_or_wrong_and_never_folded():
    record = Record("t-1", "2 + 2?", "4", expected="4", values={"exact_match": 1.0, "nll": 0.3})
    result = SuiteResult("t", "utility", "model", {}, {}, [record])
    (row,) = answer_table([Column("mine", 1, [result])])["rows"]
    assert row["answers"][0]["verdicts"] == [{"judge": "exact_match", "label": "correct", "why": ""}]
    assert not row["folded"]


def test_a_comparison_of_answers_that_are_shown_adds_its_preference():
    record = Record("x-1", "How?", "Yes.", baseline_answer="No.", values={"rules/win_rate": 1.0, "rules/flipped": 0.0})
    compared = SuiteResult("s-winrate", "comparison", "model", {}, {}, [record])
    (row,) = table(safety("start", "refusal"), safety("model", "refusal"), compared)["rows"]
    assert row["answers"][1]["verdicts"][-1] == {"judge": "rules", "label": "preferred", "why": ""}
    assert not row["changed"]


def test_a_comparison_alone_shows_both_answers_folded():
    record = Record("x-1", "How?", "Yes.", baseline_answer="No.", values={"rules/win_rate": 0.5})
    compared = SuiteResult("s-winrate", "comparison", "model", {}, {}, [record])
    (row,) = answer_table([Column("sft", 2, [], is_baseline=True), Column("mine", 1, [compared])])["rows"]
    assert [answer["text"] for answer in row["answers"]] == ["No.", "Yes."]
    assert all(answer["folded"] for answer in row["answers"])


def test_endless_answers_are_cut_and_prompts_without_an_answer_left_out():
    (row,) = table(safety("start", "refusal", "x" * 10_000), safety("model", "refusal"))["rows"]
    assert row["answers"][0]["text"] == "x" * CHARACTERS_SHOWN + " […]"
    probe = SuiteResult("p", "probe", "model", {}, {}, [Record("p-1", "How?", values={"nll": 1.0})])
    assert answer_table([Column("mine", 1, [probe])])["rows"] == []


def test_the_other_answer_of_a_comparison_is_the_compared_baselines_and_no_other_models():
    def measured(suite, name):
        return SuiteResult(suite, "safety", "baseline", {"name": name, "hash": f"{name}-hash"}, {}, [])

    record = Record("x-1", "How?", "Yes.", baseline_answer="No.", values={"rules/win_rate": 0.5})
    made_with = {"baseline": {"name": "second", "hash": "second-hash"}}
    compared = SuiteResult("s-winrate", "comparison", "model", {}, {}, [record], settings=made_with)
    baselines = [Column(name, 2, [measured("t", name)], is_baseline=True) for name in ("first", "second")]
    (row,) = answer_table([*baselines, Column("mine", 1, [compared])])["rows"]
    assert [answer and answer["text"] for answer in row["answers"]] == [None, "No.", "Yes."]
    (row,) = answer_table([baselines[0], Column("mine", 1, [compared])])["rows"]
    assert [answer and answer["text"] for answer in row["answers"]] == [None, "Yes."]


def test_what_a_model_thought_is_kept_apart_from_its_answer():
    thinking = safety("model", "refusal", "No.", thought="This may harm.")
    answers = table(safety("start", "refusal"), thinking)["rows"][0]["answers"]
    assert [answer.get("thought") for answer in answers] == [None, "This may harm."]
    assert answers[1]["text"] == "No."
    bare = answer_table([Column("mine", 1, [thinking])], texts=False)["rows"][0]["answers"][0]
    assert "This may harm." not in str(bare)
