"""PTST: what the saved chat template writes, and that nothing else changes."""

import json
from copy import copy
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import AutoTokenizer

from dualselect.errors import ConfigError
from dualselect.methods import PTST

QUESTION = [{"role": "user", "content": "how many apples"}]
ANSWER = [{"role": "assistant", "content": "seven"}]
OWN = [{"role": "system", "content": "be brief"}]


@dataclass
class Run:
    """A run with a tokenizer."""

    tokenizer: Any


@pytest.fixture
def plain(tiny_tokenizer) -> Any:
    """Return a tokenizer whose template may be changed."""
    return copy(tiny_tokenizer)


def finished(plain: Any, prompt: str) -> Any:
    """Return the tokenizer as a run of PTST leaves it."""
    run = Run(copy(plain))
    PTST(safety_prompt=prompt).finish(run)
    return run.tokenizer


def text_of(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


@pytest.mark.parametrize("prompt", ["be safe", "say \"no\" to {{ harm }}\n\\ and 'so' on", "no 😀 ä"])
@pytest.mark.parametrize("messages", [QUESTION, QUESTION + ANSWER, QUESTION + ANSWER + QUESTION])
def test_the_prompt_is_the_system_message_of_a_conversation_without_one(plain, prompt, messages):
    system = [{"role": "system", "content": prompt}]
    for options in ({}, {"add_generation_prompt": True}):
        assert text_of(finished(plain, prompt), messages, **options) == text_of(plain, system + messages, **options)


def test_a_system_message_of_ones_own_stays(plain):
    assert text_of(finished(plain, "be safe"), OWN + QUESTION) == text_of(plain, OWN + QUESTION)


def test_the_prompt_is_not_supervised(plain):
    """The prompt's tokens begin those of the whole conversation, under both templates: so masks end where it ends."""
    for tokenizer in (plain, finished(plain, "be safe")):
        prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template(QUESTION + ANSWER)["input_ids"]
        assert whole[: len(prompt)] == prompt
        assert tokenizer.decode(whole[len(prompt) :]).startswith("seven")


def test_the_saved_tokenizer_differs_in_its_template_alone(plain, tmp_path):
    prompted = finished(plain, "be safe")
    for name, tokenizer in (("plain", plain), ("prompted", prompted)):
        tokenizer.save_pretrained(tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "prompted").iterdir())
    different = [
        file for file in files if (tmp_path / "plain" / file).read_text() != (tmp_path / "prompted" / file).read_text()
    ]
    assert different == ["chat_template.jinja"]
    loaded = AutoTokenizer.from_pretrained(tmp_path / "prompted")
    assert "system: be safe" in text_of(loaded, QUESTION)


def test_all_of_several_templates_write_the_prompt(plain):
    plain.chat_template = {"default": plain.chat_template, "tool_use": "tools " + plain.chat_template}
    tokenizer = finished(plain, "be safe")
    for name, text in tokenizer.chat_template.items():
        assert text_of(tokenizer, QUESTION, chat_template=text).count("be safe") == 1, name


def test_the_model_is_asked_before_training_whether_it_takes_a_system_message(plain):
    run = Run(plain)
    before = run.tokenizer.chat_template
    assert PTST().prepare("task", run) == "task"
    assert run.tokenizer.chat_template == before
    run.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    with pytest.raises(ConfigError, match=r"takes no system message \(.*no system.*\)"):
        PTST().prepare("task", run)
    run.tokenizer.chat_template = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ConfigError, match="does not write a system message"):
        PTST().prepare("task", run)
    run.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        PTST().prepare("task", run)


def test_a_model_that_a_run_of_ptst_has_left_is_not_trained_with_its_prompt(plain):
    prompted = Run(finished(plain, PTST().safety_prompt))
    with pytest.raises(ConfigError, match=r"writes the safety prompt already.*chat_template_path"):
        PTST().prepare("task", prompted)
    assert PTST(safety_prompt="be safe").prepare("task", prompted) == "task"  # another, which is the model's own


def test_an_empty_prompt_is_refused():
    with pytest.raises(ConfigError, match="safety_prompt is empty"):
        PTST(safety_prompt=" ")


def test_the_default_can_be_written_into_a_template():
    assert json.dumps(PTST().safety_prompt)[1:-1] == PTST().safety_prompt
