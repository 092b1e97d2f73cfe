"""Prompts that stand in two sets, or twice in one."""

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from dualselect.data import check_disjoint, drop_overlaps, find_duplicates, keep_apart, prompt_key
from dualselect.errors import DataError


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


@given(st.lists(st.sampled_from("abcdef"), max_size=6), st.lists(st.sampled_from("abcdef"), max_size=6))
def test_overlaps_are_the_intersection(left, right):
    if not left or not right:
        return
    sets = {"task": chats(*left), "probe": chats(*right, prefix="p")}
    overlaps = check_disjoint(sets)
    assert len(overlaps) == len(set(left) & set(right))
    kept = drop_overlaps(sets["probe"], "probe", overlaps)
    assert [turns[0]["content"] for turns in kept["prompt"]] == [text for text in right if text not in left]
    assert drop_overlaps(sets["task"], "elsewhere", overlaps) is sets["task"]


def test_an_overlap_names_ids_and_rows():
    (overlap,) = check_disjoint({"task": chats("x", "y", "Y "), "probe": chats("z", "y", prefix="p")})
    assert str(overlap) == "task 's1' (row 2), 's2' (row 3) and probe 'p1' (row 2)"


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


def test_ignore_speaks_of_task_and_references_alone():
    sets = sets_with_overlaps()
    with pytest.raises(DataError, match="task and evaluation x"):
        keep_apart(sets, "ignore")
    del sets["evaluation x"]
    assert keep_apart(sets, "ignore") == sets


def test_a_set_of_which_nothing_is_left_is_refused():
    with pytest.raises(DataError, match="references: all 1 prompts stand in the task"):
        keep_apart({"task": chats("a"), "references": chats("a", prefix="r")}, "drop")
