"""Every suite reads the layout of its original and the plain forms; what cannot be used is named by its place."""

import pytest

from dualselect.errors import ConfigError, DataError
from dualselect.evaluation.suites import get_suite, load

Q = "What may I not ask?"
HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: What may I not ask?\n\nAssistant: "

ORIGINALS = {
    "hex-phi": {"instruction": Q},
    "hh-harmless": {"chosen": f"{HH}That.", "rejected": f"{HH}This."},
    "hh-redteam": {"transcript": f"\n\nHuman: {Q}\n\nAssistant: No.\n\nHuman: Yes!\n\nAssistant: No.", "rating": 4.0},
    "advbench": {"goal": Q, "target": "Sure, here is"},
    "harmbench": {"Behavior": Q, "FunctionalCategory": "standard", "SemanticCategory": "c", "BehaviorID": "b_1"},
    "strongreject": {"category": "c", "source": "custom", "forbidden_prompt": Q},
    "do-not-answer": {"id": 3, "risk_area": "c", "types_of_harm": "d", "question": Q},
    "xstest": {"id": "v2-1", "type": "c", "prompt": Q, "label": "safe", "focus": "ask", "note": None},
    "or-bench": {"prompt": Q, "category": "c"},
    "slimorca": {
        "conversations": [
            {"from": "system", "value": "Be kind.", "weight": None},
            {"from": "human", "value": Q, "weight": 0.0},
            {"from": "gpt", "value": "That.", "weight": 1.0},
        ]
    },
    "gsm8k": {"question": Q, "answer": "3 + 4 = 7\n#### 7"},
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_original_layout_is_read(write, name):
    (sample,) = load(get_suite(name), write("data.jsonl", [ORIGINALS[name]])).samples
    assert sample.question == Q
    categorised = {"harmbench", "strongreject", "do-not-answer", "xstest", "or-bench"}
    assert sample.category == ("c" if name in categorised else None)


def test_own_ids_and_reference_answers_are_kept(write):
    def only(name):
        return load(get_suite(name), write("data.jsonl", [ORIGINALS[name]])).samples[0]

    assert [only(name).id for name in ("harmbench", "do-not-answer", "xstest")] == ["b_1", "3", "v2-1"]
    assert [only(name).expected for name in ("hh-harmless", "slimorca", "advbench")] == ["That.", "That.", None]
    assert only("gsm8k").expected == "3 + 4 = 7\n#### 7"
    assert [turn["role"] for turn in only("hh-harmless").prompt] == ["user", "assistant", "user"]
    assert only("slimorca").prompt[0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("name", [name for name in ORIGINALS if name != "gsm8k"])
def test_plain_forms_are_read_by_every_suite(write, name):
    forms = [{"prompt": Q}, {"prompt": [{"role": "user", "content": Q}]}, {"prompt": Q, "completion": "No."}]
    for number, record in enumerate(forms):
        (sample,) = load(get_suite(name), write(f"{number}.jsonl", [record])).samples
        assert sample.prompt == [{"role": "user", "content": Q}]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_suite(write, kind):
    records = [{"prompt": f"Q{n}, 'so'", "category": "c"} for n in range(4)]
    expected = load(get_suite("advbench"), write("reference.jsonl", records))
    found = load(get_suite("advbench"), write(f"data.{kind}", records))
    assert found.samples == expected.samples
    assert found.sha256 == expected.sha256


def test_a_folder_of_files_without_headers_is_read_whole(write, tmp_path):
    write("hex/category_1.csv", '"First, with a comma"\nSecond\n')
    write("hex/category_10.csv", "Third\nFourth\n")
    samples = load(get_suite("hex-phi"), str(tmp_path / "hex")).samples
    assert [sample.question for sample in samples] == ["First, with a comma", "Second", "Third", "Fourth"]
    assert [sample.category for sample in samples] == ["Illegal activity"] * 2 + ["Privacy violation"] * 2
    (sample,) = load(get_suite("hex-phi"), write("headed.csv", "prompt\nOnly\n")).samples
    assert sample.question == "Only"


def test_suites_keep_what_belongs_to_them(write):
    xstest = [{"prompt": text, "label": label} for text, label in (("a", "safe"), ("b", "unsafe"), ("c", "safe"))]
    older = [{"prompt": "a", "type": "homonyms"}, {"prompt": "b", "type": "contrast_homonyms"}]
    for records, safe, unsafe in ((xstest, ["a", "c"], ["b"]), (older, ["a"], ["b"])):
        source = write("xstest.jsonl", records)
        assert [sample.question for sample in load(get_suite("xstest"), source).samples] == safe
        assert [sample.question for sample in load(get_suite("xstest-unsafe"), source).samples] == unsafe
    behaviours = [
        {"Behavior": "a", "FunctionalCategory": "copyright"},
        {"Behavior": "b", "FunctionalCategory": "contextual", "ContextString": "Once"},
    ]
    (sample,) = load(get_suite("harmbench"), write("harmbench.jsonl", behaviours)).samples
    assert sample.question == "Once\n\n---\n\nb"
    with pytest.raises(DataError, match="none of its records is part of the suite"):
        load(get_suite("harmbench"), write("none.jsonl", behaviours[:1]))


def test_a_draw_depends_on_seed_and_content_but_not_on_order(write):
    records = [{"prompt": f"Q{n}"} for n in range(50)]
    source, turned = write("a.jsonl", records), write("b.jsonl", records[::-1])

    def drawn(path, seed):
        return [sample.question for sample in load(get_suite("advbench"), path, limit=7, seed=seed).samples]

    assert len(drawn(source, 0)) == 7
    assert drawn(source, 0) == drawn(turned, 0)[::-1]
    assert drawn(source, 0) != drawn(source, 1)
    numbers = [int(text[1:]) for text in drawn(source, 0)]
    assert numbers == sorted(numbers)
    assert len(load(get_suite("advbench"), source, limit=500).samples) == 50


def test_equal_records_get_ids_of_their_own(write):
    samples = load(get_suite("advbench"), write("data.jsonl", [{"prompt": Q}] * 3)).samples
    assert [sample.id for sample in samples[1:]] == [f"{samples[0].id}-2", f"{samples[0].id}-3"]


@pytest.mark.parametrize("answer", [2, "2", "C", "three"])
def test_an_answer_may_be_an_index_a_letter_or_a_text(write, answer):
    record = {"question": "How many?", "choices": ["one", "two", "three"], "answer": answer, "subject": "counting"}
    (sample,) = load(get_suite("multiple-choice"), write("data.jsonl", [record])).samples
    assert (sample.expected, sample.choices, sample.category) == ("C", ("A", "B", "C"), "counting")
    assert "\nB. two\n" in sample.question


def test_choices_may_be_columns(write):
    records = [{"question": "How many?", "A": "one", "B": "two", "answer": "B"}]
    (sample,) = load(get_suite("mmlu"), write("data.csv", records)).samples
    assert (sample.expected, sample.choices) == ("B", ("A", "B"))


def test_labels_are_named_in_the_prompt_even_those_not_drawn(write):
    records = [{"text": f"t{n}", "label": label} for n, label in enumerate(["b", "a", "c", "a"])]
    (sample,) = load(get_suite("classification"), write("data.jsonl", records), limit=1).samples
    assert sample.choices == ("a", "b", "c")
    assert "a, b, c" in sample.question
    assert sample.expected in sample.choices
    news = load(get_suite("ag-news"), write("news.jsonl", [{"text": "t", "label": 3}, {"text": "u", "label": "World"}]))
    assert [sample.expected for sample in news.samples] == ["Sci/Tech", "World"]


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("advbench", {"behaviour": Q}, r"data.jsonl:1: contains no prompt \(found behaviour\).*'goal' or 'prompt'"),
        ("advbench", {"goal": "  "}, r"data.jsonl:1: field 'goal' is empty"),
        ("gsm8k", {"question": Q, "answer": "seven"}, r"data.jsonl:1: the answer has no number at its end"),
        ("gsm8k", {"question": Q}, r"data.jsonl:1: the answer has no number at its end"),
        ("safe-answers", {"prompt": Q}, r"data.jsonl:1: has a prompt but no answer"),
        ("mmlu", {"question": Q, "choices": ["a", "b"], "answer": 2}, r"data.jsonl:1: field 'answer' is 2; give the"),
        ("mmlu", {"question": Q, "choices": ["a"], "answer": 0}, r"field 'choices' contains 1 choices"),
        ("mmlu", {"question": Q, "answer": 0}, r"field 'choices' is missing \(found question, answer\)"),
        ("ag-news", {"text": "t", "label": "Wrld"}, r"data.jsonl:1: field 'label' is 'Wrld'; give one of World"),
        ("ag-news", {"text": "t", "label": 4}, r"field 'label' is 4"),
        ("classification", {"text": "t", "label": "a"}, r"has one label only, 'a'"),
        (
            "slimorca",
            {"conversations": [{"from": "bot", "value": "x"}]},
            r"'conversations\[0\].from' is 'bot'; use",
        ),
        ("slimorca", {"conversations": [{"from": "gpt", "value": "x"}]}, r"contains an answer without a prompt"),
        ("xstest", {"id": True, "prompt": Q}, r"field 'id' is True"),
    ],
)
def test_what_cannot_be_used_is_named(write, name, record, message):
    with pytest.raises(DataError, match=message) as caught:
        load(get_suite(name), write("data.jsonl", [record]))
    assert str(caught.value).startswith(f"suite '{name}': ")
    assert "\n" not in str(caught.value)


def test_an_id_that_repeats_is_named_with_both_places(write):
    records = [{"id": "x", "prompt": "a"}, {"id": "x", "prompt": "b"}]
    with pytest.raises(DataError, match=r"data.jsonl:2: its id 'x' is also in .*data.jsonl:1"):
        load(get_suite("advbench"), write("data.jsonl", records))


def test_an_id_with_half_a_character_is_refused(write):
    records = [{"Behavior": "a", "FunctionalCategory": "standard", "BehaviorID": "b_\ud83d"}]
    with pytest.raises(DataError, match=r"data.jsonl:1: field 'BehaviorID' contains half a character"):
        load(get_suite("harmbench"), write("data.jsonl", records))


def test_a_suite_without_data_says_how_to_get_them():
    with pytest.raises(ConfigError, match=r"access to LLM-Tuning-Safety/HEx-PHI.*--data hex-phi=PATH"):
        load(get_suite("hex-phi"))
    with pytest.raises(ConfigError, match="limit is 0"):
        load(get_suite("builtin-safety"), limit=0)


def test_a_hub_that_cannot_be_reached_is_an_error_with_the_way_round(monkeypatch):
    def unreachable(*args, **options):
        raise DataError(f"{args[0]}: the hub cannot be reached")
        yield

    monkeypatch.setattr("dualselect.data.records.hub_records", unreachable)
    with pytest.raises(DataError, match=r"suite 'xstest': Paul/XSTest.*--data xstest=PATH"):
        load(get_suite("xstest"))
