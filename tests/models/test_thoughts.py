import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import AddedToken

from dualselect.errors import ConfigError
from dualselect.models.generation import encode_prompt
from dualselect.models.thoughts import MARKERS, Answer, check_thinking, decode, opens_thought, split_thought

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
    tokenizer.chat_template = "{{ messages[0]['content'] }} assistant : <think>\n"
    for thinking in (None, True):
        check_thinking("m", tokenizer, thinking)
    with pytest.raises(ConfigError, match="m: thinking is off but the model's chat template opens a thought"):
        check_thinking("m", tokenizer, False)


@pytest.mark.parametrize(("has_switch", "thinking"), [(True, False), (False, False), (False, True), (False, None)])
def test_a_template_without_a_switch_is_noted_where_one_is_asked_for(tokenizer, caplog, has_switch, thinking):
    if has_switch:
        tokenizer.chat_template = SWITCHED
    check_thinking("m", tokenizer, thinking)
    noted = not has_switch and thinking is not None
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "m: its chat template has no switch for thinking, so `thinking` changes nothing"
    ] * noted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tags such as `<think>` and `</think>` mark it.", "Tags such as `<think>` and `</think>` mark it."),
        ("<think>Is it '5'?</think>It is '5'.", "It is '5'."),
        ("<reasoning>a</reasoning>\n<answer>\nFive.\n</answer>", "Five."),
        ("<think>a</think><response>Five.", "Five."),
        ("<answer>Five.</answer>", "<answer>Five.</answer>"),
        ("<|channel>thought\na<channel|>Five.", "Five."),
    ],
)
def test_quoted_markers_stay_and_what_wraps_the_answer_goes(text, expected):
    assert split_thought(text).answer == expected


def test_who_ends_a_turn_without_closing_a_thought_of_the_template_has_answered():
    assert split_thought("I can't help.", opened=True, finished=True) == ("I can't help.", "", False)
    assert split_thought("a</think>b", opened=True, finished=True) == ("b", "a", False)
    assert split_thought("<think>a", finished=True).is_cut


@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        (Answer("red", "stop"), ""),
        (Answer("", "stop"), ""),
        (Answer("red", "length"), ""),
        (Answer("<think>red", "length"), "ends within a thought"),
        (Answer("red", "length", opened=True), "ends within a thought"),
        (Answer("red", "stop", opened=True), ""),
        (Answer(None, reason="the server answers 400"), "the server answers 400"),
        (Answer(None), "no answer"),
    ],
)
def test_an_answer_says_why_there_is_nothing_to_judge(answer, missing):
    assert missing in answer.missing
    assert bool(missing) == bool(answer.missing)


@given(before=plain, thought=plain, after=plain, pair=st.sampled_from(MARKERS))
def test_text_before_a_thought_belongs_to_the_answer(before, thought, after, pair):
    # A marker in quotation marks is one that the answer speaks of.
    assume(not any(text[-1:] in "`'\"" for text in (before, thought) if text))
    found = split_thought(f"{before}{pair[0]}{thought}{pair[1]}{after}")
    assert found == ((before + after).strip(), thought.strip(), False)


@given(text=st.text(max_size=60), opened=st.booleans(), finished=st.booleans())
def test_no_text_is_split_into_more_than_there_is(text, opened, finished):
    found = split_thought(text, opened=opened, finished=finished)
    assert len(found.answer) + len(found.thought) <= len(text)
    assert split_thought(found.answer) == (found.answer, "", False)
