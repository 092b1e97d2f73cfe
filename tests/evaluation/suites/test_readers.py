"""What a reader makes of a record: choices keep their letters, and names are whole."""

import pytest

from dualselect.data.records import Record
from dualselect.errors import DataError
from dualselect.evaluation.suites import readers

QUESTION = {"question": "Which of them is even?"}


def read(reader, **fields):
    return reader(Record(fields, "data", 3, "data:3"))


@pytest.mark.parametrize("empty", [None, "", "  ", "\u200b", float("nan")])
@pytest.mark.parametrize("place", [0, 1])
def test_an_empty_choice_before_others_is_refused(empty, place):
    given = [3, 4, 5]
    given[place] = empty
    with pytest.raises(DataError, match=rf"^data:3: field '{'AB'[place]}' is empty.*; write the choice.*remove") as one:
        read(readers.multiple_choice, **QUESTION, **dict(zip("ABC", given, strict=True)), answer="C")
    assert "\n" not in str(one.value)
    with pytest.raises(DataError, match=rf"^data:3: field 'choices\[{place}\]' is empty"):
        read(readers.multiple_choice, **QUESTION, choices=given, answer=2)


def test_a_last_empty_choice_of_a_list_is_refused_as_well():
    with pytest.raises(DataError, match=r"field 'choices\[2\]' is empty"):
        read(readers.multiple_choice, **QUESTION, choices=[3, 4, None], answer=1)


@pytest.mark.parametrize("empty", [None, " ", float("nan")])
def test_empty_columns_at_the_end_are_choices_that_a_question_lacks(empty):
    sample = read(readers.multiple_choice, **QUESTION, A=3, B=4, C=empty, D=empty, answer="B")
    assert sample.choices == ("A", "B")
    assert "A. 3\nB. 4\n" in sample.question
    assert sample.expected == "B"
    with pytest.raises(DataError, match="field 'answer' is 'C'; give the letter"):
        read(readers.multiple_choice, **QUESTION, A=3, B=4, C=empty, answer="C")


def test_one_column_alone_is_too_few():
    with pytest.raises(DataError, match="contains 1 choices; give 2 to 26"):
        read(readers.multiple_choice, **QUESTION, A=3, B=None, answer="A")


def test_choices_that_look_like_nothing_are_choices():
    sample = read(readers.multiple_choice, **QUESTION, choices=["None", 0, False, "[]"], answer=1)
    assert "A. None\nB. 0\nC. False\nD. []\n" in sample.question


def test_a_category_or_label_with_half_a_character_is_refused():
    for reader, fields, field in (
        (readers.prompts(category=("area",)), {"prompt": "a", "area": "b\ud83d"}, "area"),
        (readers.answered, {"prompt": "a", "completion": "b", "category": "\udc00"}, "category"),
        (readers.labelled(), {"text": "a", "label": "\udc00"}, "label"),
    ):
        with pytest.raises(DataError, match=f"^data:3: field '{field}' contains half a character"):
            read(reader, **fields)


def test_conversations_may_begin_with_a_system_message_that_says_nothing():
    turns = [("system", ""), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    named = [{"from": speaker, "value": text, "weight": None} for speaker, text in turns]
    sample = read(readers.conversations, conversations=named)
    assert [(turn["role"], turn["content"]) for turn in sample.prompt] == [
        ("system", ""),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]
    assert sample.expected == "d"
