"""What the libraries below say of a user's model, settings and records is one line with exit code 2."""

import json

import pytest
import torch
from datasets import Dataset
from jinja2 import TemplateError
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer

from dualselect.errors import ConfigError, DataError, library_errors
from dualselect.gradients import Direction

_NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ m['role'] + ': ' + m['content'] + '<end>' }}{% endfor %}"
)


@pytest.fixture
def train(dualselect, config):
    """Return a function that trains by plain SFT, with further flags, and returns the one line of its error."""

    def run(*flags):
        shown = dualselect("train", "--config", config, "--method", "sft", *flags)
        assert shown.code == 2, shown.err
        line = next(line for line in shown.err.splitlines() if line.startswith("dualselect: error: "))
        assert shown.err.rstrip().endswith(line)
        assert "Traceback" not in shown.err
        return line

    return run


@pytest.fixture
def model_with(tiny_model, tiny_tokenizer, tmp_path):
    """Return a function that saves the tiny model with a chat template, or without any."""

    def make(template):
        tiny_model.save_pretrained(tmp_path / "model")
        tiny_tokenizer.save_pretrained(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
        tokenizer.chat_template = template
        for path in (tmp_path / "model").glob("chat_template*"):
            path.unlink()
        tokenizer.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return make


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model", "no/such-model"], "model 'no/such-model' could not be found"),
        (["--model", "/nowhere/at/all"], "model '/nowhere/at/all' could not be found"),
        (["--lora_target_modules", "query_key_value", "Wqkv"], "query_key_value"),
        (["--lora_target_modules", "Wqkv"], "Wqkv"),
        (["--lora_target_modules", "q_proj", "lm_head"], "lm_head"),
        (["--padding_free", "true", "--loss_average", "token", "--max_length", "64"], "padding_free"),
        (
            ["--model_init_kwargs", '{"no_such": 1}'],
            "model_init_kwargs: the model takes no 'no_such'; correct its name",
        ),
        (["--report_to", "no_such_logger"], "no_such_logger"),
        (["--optim", "galore_adamw"], "optim: the optimizer could not be made: "),
        (["--seed", "-1"], "seed"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps is 0"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size is 0"),
    ],
)
def test_what_a_library_refuses_is_one_line(train, flags, named):
    assert named in train(*flags)


def test_evaluation_without_data_is_one_line(dualselect, data, tiny_model_dir):
    flags = ["--model", tiny_model_dir, "--output_dir", data / "x", "--bf16", "false", "--report_to", "none"]
    shown = dualselect("train", "--task", data / "task.jsonl", "--method", "sft", "--eval_strategy", "steps", *flags)
    assert shown.code == 2
    assert "eval_strategy" in shown.err.splitlines()[-1]


def test_an_adapter_is_no_model(train, tiny_model, tmp_path):
    get_peft_model(tiny_model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    line = train("--model", tmp_path / "adapter")
    assert f"'{tmp_path / 'adapter'}' is an adapter" in line
    assert "base model" in line


def test_an_output_folder_that_is_a_file_is_named(train, data):
    (data / "afile").write_text("x")
    assert f"{data / 'afile'} is a file" in train("--output_dir", data / "afile")
    assert f"{data / 'afile'} is a file" in train("--output_dir", data / "afile" / "run")
    assert (data / "afile").read_text() == "x"


def test_a_model_without_a_chat_template_is_reported(train, model_with):
    line = train("--model", model_with(None))
    assert "no chat template" in line
    assert "chat_template_path" in line


@pytest.mark.parametrize(
    ("turns", "cause"),
    [
        ([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}], "System role not supported"),
        ([{"role": "user", "content": "hi"}, {"role": "user", "content": "you"}], "Roles must alternate"),
    ],
)
def test_the_record_that_a_template_refuses_is_named(train, model_with, data, turns, cause):
    answer = {"role": "assistant", "content": "yes"}
    fine = {"id": "fine", "messages": [{"role": "user", "content": "what"}, answer]}
    bad = {"id": "the bad one", "messages": [*turns, answer]}
    rows = [fine, bad, bad | {"id": "later"}]
    (data / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = train("--model", model_with(_NO_SYSTEM), "--task", data / "chats.jsonl")
    assert "task: the model's chat template refuses sample 'the bad one'" in line
    assert cause in line


# The rule itself.


def raised_by(function):
    with pytest.raises(ConfigError) as raised, library_errors("place", "cure"):
        function()
    return str(raised.value)


def test_place_cause_and_cure_are_in_one_line():
    line = raised_by(lambda: AutoTokenizer.from_pretrained("/nowhere/at/all"))
    assert line.startswith("place: ")
    assert line.endswith("; cure")
    assert "\n" not in line


def test_an_exception_class_of_a_library_is_enough():
    def refuse():
        raise TemplateError("no\n  such role.")

    assert raised_by(refuse) == "place: no such role; cure"


def test_mistakes_in_code_stay_loud():
    for error in (TypeError("x"), AttributeError("x"), ValueError("not of a library"), KeyError("x")):
        with pytest.raises(type(error)), library_errors("place", "cure"):
            raise error
    with pytest.raises(TypeError), library_errors("place", "cure"):
        LoraConfig(no_such_option=1)
    with pytest.raises(RuntimeError, match="shape"), library_errors("place", "cure"):
        torch.zeros(2).reshape(3)


def test_code_of_ours_that_a_library_calls_stays_loud():
    def call(row):
        Direction.zeros({}).load_state_dict({"unknown": torch.zeros(1)})  # raises a ValueError

    with pytest.raises(ValueError, match="unknown"), library_errors("place", "cure"):
        Dataset.from_dict({"a": [1]}).map(call)


def test_our_own_errors_pass_as_they_are_and_causes_are_kept():
    with pytest.raises(DataError, match=r"^as it is$"), library_errors("place", "cure"):
        raise DataError("as it is")
    with pytest.raises(ConfigError) as raised, library_errors("place", "cure"):
        AutoTokenizer.from_pretrained("/nowhere/at/all")
    assert isinstance(raised.value.__cause__, OSError)
