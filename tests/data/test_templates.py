"""What a chat template does besides laying out messages."""

from datetime import datetime
from types import SimpleNamespace

import pytest
from transformers.utils import chat_template_utils

from dualselect.data.templates import declared_ends, end_of_turn, pinned, reads_clock

DAY = datetime(2024, 7, 26, 9, 5)
DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') }}" + '{{ strftime_now( "%H" ) }} {{ messages[0].content }}'
TURNS = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def tokenizer(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(tiny_tokenizer, "chat_template", tiny_tokenizer.chat_template)
    return tiny_tokenizer


def test_a_pinned_template_writes_the_same_date_whenever_it_is_rendered(tokenizer):
    tokenizer.chat_template = pinned(DATED, DAY)
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == "Today: 26 Jul 202409 Hi"
    assert reads_clock(DATED)
    assert not reads_clock(tokenizer.chat_template)


def test_a_pinned_template_is_what_the_template_is_at_that_moment(tokenizer, monkeypatch):
    tokenizer.chat_template = DATED
    with monkeypatch.context() as patched:
        patched.setattr(chat_template_utils, "datetime", SimpleNamespace(now=lambda: DAY))
        expected = tokenizer.apply_chat_template(TURNS, tokenize=False)
    tokenizer.chat_template = pinned(DATED, DAY)
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == expected


def test_templates_without_a_clock_stay_and_tables_are_pinned_one_by_one():
    assert pinned("{{ messages }}", DAY) == "{{ messages }}"
    assert pinned(None, DAY) is None
    table = pinned({"default": DATED, "tool_use": "x"}, DAY)
    assert table["tool_use"] == "x"
    assert not reads_clock(table)


def test_a_date_with_quotes_stays_one_text(tokenizer):
    tokenizer.chat_template = pinned("""{{ strftime_now('%d o"clock') }}{{ strftime_now("it's %Y") }}""", DAY)
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == """26 o"clockit's 2024"""


def test_a_computed_form_cannot_be_pinned_and_is_reported():
    assert reads_clock(pinned("{% set form = '%d' %}{{ strftime_now(form) }}", DAY))


TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + END }}{% endfor %}"


@pytest.mark.parametrize(
    ("end", "token"),
    [("'<end>\n'", "<end>"), ("' <unk> '", "<unk>"), ("'\n'", None), ("'.<end>'", None), ("''", None)],
)
def test_the_end_of_a_turn_is_the_special_token_right_after_the_answer(tokenizer, end, token):
    tokenizer.chat_template = TEMPLATE.replace("END", end)
    assert end_of_turn(tokenizer) == (None if token is None else tokenizer.convert_tokens_to_ids(token))


def test_without_a_template_or_where_it_refuses_there_is_no_end_of_turn(tokenizer):
    tokenizer.chat_template = None
    assert end_of_turn(tokenizer) is None
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert end_of_turn(tokenizer) is None


def test_ends_are_declared_by_model_and_tokenizer(tokenizer):
    assert declared_ends(None, tokenizer) == [1]
    assert declared_ends(SimpleNamespace(eos_token_id=[7, 1]), tokenizer) == [1, 7]
    assert declared_ends(SimpleNamespace(eos_token_id=9), tokenizer) == [1, 9]
