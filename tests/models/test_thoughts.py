import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from dualselect.errors import ConfigError
from dualselect.models.generation import encode_prompt
from dualselect.models.thoughts import MARKERS, decode, opens_thought, split_thought, template_opens_thought

SWITCHED = (
    "{% for m in messages %}{{ m['content'] }} {% endfor %}assistant : "
    "{% if enable_thinking is defined and not enable_thinking %}<think> </think> {% endif %}"
)


@pytest.mark.parametrize(("opening", "closing"), MARKERS)
def test_the_thought_of_every_family_is_cut_off(opening, closing):
    assert split_thought(f"{opening}It is 4.{closing}\n\nThe answer is 5.") == ("The answer is 5.", "It is 4.", False)
    assert split_thought(f"  {opening}\nIt is 4, or") == ("", "It is 4, or", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No thought at all.", ("No thought at all.", "", False)),
        ("<think>\n\n</think>\n\nFive.", ("Five.", "", False)),
        ("<THINK>a</THINK>b", ("b", "a", False)),
        ("<think>a<think>b</think>c</think>d", ("d", "a<think>b\n\nc", False)),
        ("<think>a</think>b<think>c</think>d", ("bd", "a\n\nc", False)),
        ("a</think>b", ("b", "a", False)),
        ("</think>b", ("b", "", False)),
        ("<think>a</think>", ("", "a", False)),
        ("<think>a</think><think>b", ("", "a\n\nb", True)),
        ("Write <think> before you reason.", ("Write <think> before you reason.", "", False)),
        ("", ("", "", False)),
    ],
)
def test_thoughts_in_all_places(text, expected):
    assert split_thought(text) == expected


def test_all_channels_but_the_last_are_thoughts():
    text = (
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Three.<|return|>"
    )
    found = split_thought(text)
    assert (found.answer, found.is_cut) == ("Three.", False)
    assert "One." in found.thought
    assert "Two." in found.thought


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a</think>b", ("b", "a", False)),
        ("a[/THINK]b", ("b", "a", False)),
        ("a and", ("", "a and", True)),
        ("", ("", "", True)),
    ],
)
def test_a_thought_that_the_prompt_has_opened(text, expected):
    assert split_thought(text, opened=True) == expected


plain = st.text(st.characters(exclude_characters="<>[]\u25c1\u25b7"), max_size=40)


@given(thought=plain, answer=plain, pair=st.sampled_from(MARKERS))
def test_nothing_but_the_thought_is_lost(thought, answer, pair):
    found = split_thought(f"{pair[0]}{thought}{pair[1]}{answer}")
    assert found == (answer.strip(), thought.strip(), False)
    assert split_thought(answer) == (answer.strip(), "", False)


@pytest.mark.parametrize(
    ("rendered", "expected"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("user: What does <think> mean?\nassistant: ", False),
        ("assistant: ", False),
    ],
)
def test_whether_a_template_has_opened_a_thought(rendered, expected):
    assert opens_thought(rendered) is expected


def test_a_decoder_keeps_special_tokens_that_mark_thoughts(tokenizer):
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(mark, special=True) for mark in ("[THINK]", "[/THINK]")]}
    )
    ids = tokenizer("[THINK] red [/THINK] blue <end> <pad>")["input_ids"]
    (text,) = decode(tokenizer, [ids])
    assert split_thought(text) == ("blue", "red", False)


def test_a_decoder_without_such_tokens_leaves_out_all_special_ones(tokenizer):
    assert decode(tokenizer, [tokenizer("red blue <end> <pad>")["input_ids"]]) == ["red blue"]


def test_the_template_is_told_whether_to_think(tokenizer):
    tokenizer.chat_template = SWITCHED
    prompt = [{"role": "user", "content": "red"}]
    texts = [tokenizer.decode(encode_prompt(tokenizer, prompt, thinking=thinking)) for thinking in (None, True, False)]
    assert texts[0] == texts[1]
    assert len(texts[2]) > len(texts[0])


def test_a_model_that_cannot_help_thinking_is_named(tokenizer):
    assert not template_opens_thought(tokenizer, None)
    tokenizer.chat_template = "{{ messages[0]['content'] }} assistant : <think>\n"
    assert template_opens_thought(tokenizer, None)
    assert template_opens_thought(tokenizer, True)
    with pytest.raises(ConfigError, match="thinking is off but the model's chat template opens a thought"):
        template_opens_thought(tokenizer, False)
