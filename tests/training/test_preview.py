"""What training would make of a data set, without a model."""

import pytest
from datasets import Dataset

from dualselect.errors import DataError
from dualselect.training.preview import inspect


def chats(*answers, **others):
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"how many {number}"}],
                "completion": [{"role": "assistant", "content": text}],
                **others,
            }
            for number, text in enumerate(answers)
        ]
    )


@pytest.fixture
def tokenizer(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", tiny_tokenizer.chat_template)
    return tiny_tokenizer


def test_tokens_are_counted_as_they_are_learned(settings, tokenizer):
    answers = ["the fox", "apples"]
    found = inspect(chats(*answers), settings(), tokenizer)
    counts = [len(tokenizer(f"{text}<end>\n")["input_ids"]) for text in answers]
    assert (found.supervised.smallest, found.supervised.total) == (min(counts), sum(counts))
    assert (found.samples, found.dropped, found.endless) == (2, [], 0)


def test_samples_whose_answers_do_not_end_are_counted_without_those_that_are_cut(settings, tokenizer):
    data = chats("the fox", "apples", "many apples " * 40)
    assert inspect(data, settings(max_length=64), tokenizer).endless == 0
    tokenizer.chat_template = tokenizer.chat_template.replace("<end>", "")
    found = inspect(data, settings(max_length=64), tokenizer)
    assert (found.endless, found.cut) == (2, 1)


def test_samples_are_counted_one_by_one_where_they_will_be_packed(settings, tokenizer):
    data = chats("the fox", "apples", "many apples")
    assert inspect(data, settings(packing=True, max_length=160), tokenizer) == inspect(
        data, settings(max_length=160), tokenizer
    )


def test_the_caller_says_what_ends_an_answer(settings, tokenizer):
    newline = tokenizer("\n")["input_ids"][-1]
    tokenizer.chat_template = tokenizer.chat_template.replace("<end>", "")
    assert inspect(chats("the fox"), settings(), tokenizer, [newline]).endless == 0
    assert inspect(chats("the fox"), settings(), tokenizer, []).endless == 1


def test_an_end_in_the_midst_of_what_is_learned_is_none(settings, tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("<end>", "<end> and so on")
    assert inspect(chats("the fox"), settings(), tokenizer).endless == 1


def test_a_record_that_the_template_refuses_is_named(settings, tokenizer):
    tokenizer.chat_template = (
        "{% if messages[0].content == 'how many 1' %}{{ raise_exception('No.') }}{% endif %}x<end>"
    )
    with pytest.raises(DataError, match=r"^references: .* refuses sample 2: No"):
        inspect(chats("a", "b", "c"), settings(), tokenizer, name="references")
