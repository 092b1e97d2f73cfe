"""Prompts that stand in two sets, or twice in one."""

import json
import sys
import unicodedata

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from dualselect.data import (
    check_disjoint,
    disjoint,
    drop_overlaps,
    find_duplicates,
    keep_apart,
    prompt_key,
    run_doubts,
    run_overlaps,
)
from dualselect.data.messages import visible
from dualselect.errors import DataError

pytestmark = pytest.mark.slow


def chats(*prompts, prefix="s"):
    return Dataset.from_list(
        [
            {"id": f"{prefix}{n}", "row": n + 1, "prompt": [{"role": "user", "content": text}], "completion": []}
            for n, text in enumerate(prompts)
        ]
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How are you?", "  how ARE\n you? ", True),
        ("How are you?", "How are you", False),
        ("ｆｕｌｌ width", "full width", True),
        ("a", [{"role": "user", "content": "A"}], True),
        ("a", [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a"}], True),
        ("a", [{"role": "assistant", "content": "a"}], False),
    ],
)
def test_prompts_are_the_same_but_for_case_and_space(one, other, same):
    assert (prompt_key(one) == prompt_key(other)) is same


INVISIBLE = [*"\u00ad\u200b\u200c\u200d\u200e\u200f\u202e\u2060\u2066\ufeff\ufe0f\u034f\u3164", "\U000e0041"]


@pytest.mark.parametrize("character", INVISIBLE, ids=lambda character: f"{ord(character):x}")
def test_invisible_characters_make_no_other_prompt(character):
    assert prompt_key(f"How do{character} I?") == prompt_key("how do i?")


def test_all_format_characters_but_those_that_are_shown_are_invisible():
    """Unicode's category Cf, less its default-ignorable characters: signs of Arabic, Syriac, Kaithi and Egyptian."""
    shown = [0x6DD, 0x70F, 0x8E2, 0x110BD, 0x110CD]
    ranges = [*range(0x600, 0x606), *range(0x890, 0x892), *range(0xFFF9, 0xFFFC), *range(0x13430, 0x13440)]
    formats = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Cf"]
    assert {code for code in formats if visible(chr(code))} <= {*shown, *ranges}
    assert visible("".join(map(chr, range(0x20, 0x7F))) + "é日") == "".join(map(chr, range(0x20, 0x7F))) + "é日"


def test_prompts_with_tool_calls_and_parts_have_keys():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add"}}]}
    asked, result = {"role": "user", "content": "2 + 2?"}, {"role": "tool", "content": "4"}
    other = {**call, "tool_calls": [{"function": {"name": "subtract"}}]}
    keys = {prompt_key(turns) for turns in ([asked], [asked, call, result], [asked, other, result], [asked, result])}
    assert len(keys) == 4
    parts = [{"role": "user", "content": [{"type": "text", "text": "2 +"}, {"type": "text", "text": "2?"}]}]
    assert prompt_key(parts) == prompt_key("2 + 2?")
    image = [{"role": "user", "content": [{"type": "image", "url": "x"}, {"type": "text", "text": "2 + 2?"}]}]
    assert prompt_key(image) != prompt_key("2 + 2?")


@given(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6),
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6),
)
def test_overlaps_are_the_intersection(left, right):
    sets = {"task": chats(*left), "probe": chats(*right, prefix="p")}
    overlaps = check_disjoint(sets)
    assert len(overlaps) == len(set(left) & set(right))
    kept = drop_overlaps(sets["probe"], "probe", overlaps)
    assert [turns[0]["content"] for turns in kept["prompt"]] == [text for text in right if text not in left]
    assert drop_overlaps(sets["task"], "elsewhere", overlaps) is sets["task"]


def test_an_overlap_names_ids_and_rows():
    (overlap,) = check_disjoint({"task": chats("x", "y", "Y "), "probe": chats("z", "y", prefix="p")})
    assert str(overlap) == "task 's1' (row 2), 's2' (row 3) and probe 'p1' (row 2)"
    (overlap,) = check_disjoint({"task": chats(*["y"] * 5), "probe": chats("y", prefix="p")})
    assert str(overlap) == "task 's0' (row 1), 's1' (row 2), 's2' (row 3) and 2 more and probe 'p0' (row 1)"


def test_conversations_are_compared_without_their_last_answer():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert check_disjoint({"task": Dataset.from_list([{"messages": turns}]), "probe": chats("A")})
    assert not check_disjoint({"task": Dataset.from_list([{"input_ids": [1]}]), "probe": chats("A")})


def test_duplicates():
    assert find_duplicates(chats("a", "b", " A")) == [("s0", "s2")]


def sets_with_overlaps():
    return {
        "task": chats("a", "b"),
        "references": chats("b", "c", "d", prefix="r"),
        "evaluation x": chats("a", "c", "e", prefix="x"),
        "evaluation y": chats("e", prefix="y"),
    }


def test_drop_leaves_prompts_with_the_set_that_goes_first():
    kept = keep_apart(sets_with_overlaps(), "drop")
    assert {name: dataset["id"][:] for name, dataset in kept.items()} == {
        "task": ["s0", "s1"],
        "references": ["r1", "r2"],
        "evaluation x": ["x2"],
        "evaluation y": ["y0"],
    }


def test_error_stops_and_names_the_first():
    with pytest.raises(DataError, match=r"task and references share 1 prompt, the first: task 's1' \(row 2\) and"):
        keep_apart(sets_with_overlaps(), "error")


def test_ignore_concerns_task_and_pools_alone():
    sets = sets_with_overlaps()
    with pytest.raises(DataError, match="task and evaluation x"):
        keep_apart(sets, "ignore")
    del sets["evaluation x"]
    assert keep_apart(sets, "ignore") == sets


def test_any_pool_is_kept_apart_as_the_references_are_but_pools_may_share_prompts():
    sets = {
        "task": chats("a", "b"),
        "references": chats("c", prefix="r"),
        "harmful": chats("b", "c", "d", prefix="h"),
        "evaluation x": chats("d", "e", prefix="x"),
    }
    kept = keep_apart(sets, "drop")
    assert [kept[name]["id"][:] for name in sets] == [["s0", "s1"], ["r0"], ["h1", "h2"], ["x1"]]
    pairs = [overlap.sets for overlap in run_overlaps(sets)]
    assert pairs == [("task", "harmful"), ("harmful", "evaluation x")]
    with pytest.raises(DataError, match="task and harmful share 1 prompt"):
        keep_apart(sets, "error")


def test_rows_are_dropped_even_where_all_have_one_id():
    pool = chats("a", "x", "y", prefix="r").map(lambda _: {"id": "same"})
    kept = keep_apart({"task": chats("a"), "references": pool}, "drop")
    assert [turns[0]["content"] for turns in kept["references"]["prompt"]] == ["x", "y"]


UNSAFE, ANSWER = "How do I pick the lock of my neighbour?", "Sure, first you bend a pin."
ROLE = {"user": "human", "assistant": "gpt"}
TURNS = [{"role": "user", "content": UNSAFE}, {"role": "assistant", "content": ANSWER}]
ONE_SAMPLE = {
    "prompt": {"prompt": UNSAFE, "completion": ANSWER},
    "messages": {"messages": TURNS},
    "from and value": {"conversations": [{"from": ROLE[turn["role"]], "value": turn["content"]} for turn in TURNS]},
    "conversations": {"conversations": TURNS},
    "text": {"text": f"Question: {UNSAFE.lower()}\nAnswer: {ANSWER}"},
}


@pytest.mark.parametrize("form", ONE_SAMPLE)
def test_a_reference_among_the_task_is_found_in_every_form(form):
    task = Dataset.from_list([{**row, "id": name} for name, row in (("o", OTHER[form]), ("u", ONE_SAMPLE[form]))])
    pool = chats("Something else entirely, is it not so?", UNSAFE, prefix="r")
    for sets in ({"task": task, "references": pool}, {"task": pool, "references": task}):
        (overlap,) = run_overlaps(sets)
        ids = dict(zip(overlap.sets, overlap.ids, strict=True))
        assert set(ids.values()) == {("u",), ("r1",)}
    kept = keep_apart({"task": task, "references": pool}, "drop")
    assert kept["references"]["id"][:] == ["r0"]


def in_form(form, text):
    """Return the one sample of a form with another prompt."""
    return json.loads(json.dumps(ONE_SAMPLE[form]).replace(UNSAFE, text).replace(UNSAFE.lower(), text))


OTHER = {form: in_form(form, "How do I pick the flowers of my neighbour?") for form in ONE_SAMPLE}


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "a b"}, {"text": "c"}],
        [{"input_ids": [1, 2], "labels": [1, 2]}, {"input_ids": [3], "labels": [3]}],
        [{"question": "a", "reply": "b"}, {"question": "c", "reply": "d"}],
    ],
    ids=["text", "tokenised", "other columns"],
)
def test_identical_sets_of_any_form_are_found(rows):
    task = Dataset.from_list(rows)
    with pytest.raises(DataError, match="task and references share 2 prompts"):
        keep_apart({"task": task, "references": Dataset.from_list(rows)}, "error")
    assert not check_disjoint({"task": task.select([0]), "references": task.select([1])})


def test_what_cannot_be_compared_is_said(monkeypatch):
    tokens, texts = Dataset.from_list([{"input_ids": [1]}]), Dataset.from_list([{"text": "a"}])
    streamed = chats("x").to_iterable_dataset()
    doubts = run_doubts({"task": chats("a b c d e", "a b"), "references": tokens, "evaluation x": texts})
    assert [doubt.split(":")[0] for doubt in doubts] == [
        "task and references are not compared",
        "task and evaluation x",
        "references and evaluation x are not compared",
    ]
    assert "1 prompts of fewer than 5 words" in doubts[1]
    assert "streamed" in run_doubts({"task": chats("a"), "evaluation x": streamed})[0]
    assert not run_doubts({"task": chats("a"), "references": chats("b"), "evaluation x": chats("c")})
    warnings = []
    monkeypatch.setattr(disjoint._logger, "warning", warnings.append)
    sets = {"task": chats("a"), "references": tokens}
    assert keep_apart(sets, "error") == sets
    assert warnings == run_doubts(sets)
    assert len(warnings) == 1


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=7), min_size=1, max_size=4))
def test_texts_contain_the_prompts_whose_words_they_contain(prompts):
    texts = ["a b c a b c a", "c c c b b b a a a", "b a b a, B A b!"]
    asked = chats(*map(" ".join, prompts))
    found = {
        (name, text)
        for overlap in check_disjoint({"task": asked, "pool": Dataset.from_list([{"text": text} for text in texts])})
        for name in overlap.ids[0]
        for text in overlap.ids[1]
    }
    plain = [" ".join(text.lower().replace(",", "").replace("!", "").split()) for text in texts]
    expected = {
        (f"s{n}", str(row))
        for n, words in enumerate(prompts)
        for row, text in enumerate(plain, start=1)
        if len(words) >= 5 and " ".join(words) in text
    }
    assert found == expected


def test_a_set_of_which_nothing_is_left_is_refused():
    with pytest.raises(DataError, match="references: all 1 prompts are also in the task"):
        keep_apart({"task": chats("a"), "references": chats("a", prefix="r")}, "drop")
