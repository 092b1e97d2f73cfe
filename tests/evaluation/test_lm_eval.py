"""The harness runs on the model in memory; its figures are the records' means."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import LlamaForCausalLM

from dualselect.errors import ConfigError
from dualselect.evaluation.lm_eval import run_lm_eval
from dualselect.models import LocalModels

pytestmark = pytest.mark.slow

QUESTIONS = ["red or one", "two apples", "why not", "the quick fox"]
CHOICES = ["yes", "why"]

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 3.0
"""


@pytest.fixture
def target(tiny_model, tiny_tokenizer):
    return SimpleNamespace(
        name="tiny", identity={"name": "tiny", "hash": "0"}, model=tiny_model.eval(), tokenizer=tiny_tokenizer
    )


@pytest.fixture
def task_folder(tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.jsonl"
    rows = [{"question": text, "choices": CHOICES, "answer": index % 2} for index, text in enumerate(QUESTIONS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "tiny_choice.yaml").write_text(TASK.format(path=data))
    return str(folder)


def log_prob(model, tokenizer, context, continuation):
    start = tokenizer(context)["input_ids"]
    ids = tokenizer(context + continuation)["input_ids"]
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(log_probs[place - 1, ids[place]]) for place in range(len(start), len(ids)))


def accuracies(model, tokenizer):
    """By a loop of forward passes."""
    found = []
    for index, text in enumerate(QUESTIONS):
        scores = [log_prob(model, tokenizer, text, f" {choice}") for choice in CHOICES]
        found.append(float(scores.index(max(scores)) == index % 2))
    return found


def test_accuracy_is_that_of_a_loop_of_forward_passes(target, task_folder):
    (result,) = run_lm_eval(target, ["tiny_choice"], include_path=task_folder, apply_chat_template=False)
    assert result.values("acc") == accuracies(target.model, target.tokenizer)
    assert result.estimate("acc").value == pytest.approx(result.settings["lm_eval"]["acc,none"])
    assert (result.metrics["acc"].better, result.metrics["acc"].unit) == ("higher", "share")
    assert [record.prompt for record in result.records] == QUESTIONS
    assert result.settings["task_version"] == "3.0"
    assert result.file_name == "lm-eval-tiny_choice.json"


def test_adapters_of_one_base_are_each_measured_with_their_own_on(tiny_model_dir, make_adapter, task_folder):
    models, folders = LocalModels(device="cpu"), [make_adapter(f"run-{seed}", seed, lora_alpha=100) for seed in (1, 2)]
    targets = [models.open(str(folder)) for folder in folders]
    targets.append(targets[0].start())  # the last adapter that was put on is not the one to measure
    found = []
    for target, folder in zip(targets, [*folders, None], strict=True):
        (result,) = run_lm_eval(target, ["tiny_choice"], include_path=task_folder, apply_chat_template=False)
        found.append(result.values("acc"))
        alone = LlamaForCausalLM.from_pretrained(tiny_model_dir)
        alone = (PeftModel.from_pretrained(alone, folder) if folder else alone).eval()
        assert found[-1] == accuracies(alone, target.tokenizer)
    assert len({tuple(values) for values in found}) == len(found)


def test_results_can_be_written_and_read(target, task_folder, tmp_path):
    (result,) = run_lm_eval(target, ["tiny_choice"], 2, include_path=task_folder, seed=4)
    assert len(result.records) == 2
    assert "user: red or one" in result.records[0].prompt  # through the chat template
    assert type(result).read(result.write(tmp_path)) == result


@pytest.mark.slow
def test_an_unknown_task_is_an_error_with_the_nearest_name(target, task_folder):
    with pytest.raises(ConfigError, match="unknown task 'tiny_choise'; did you mean 'tiny_choice'"):
        run_lm_eval(target, ["tiny_choise"], include_path=task_folder)


def test_a_missing_harness_is_named_with_its_cure(target, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'dualselect\[lm-eval\]'"):
        run_lm_eval(target, ["arc_easy"])
