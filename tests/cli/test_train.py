"""`dualselect train` from file to run folder, and again from the run folder."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dualselect.runs.selection_log import SelectionLog

pytestmark = pytest.mark.slow


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


def test_a_run_leaves_its_folder_and_its_settings_make_it_again(dualselect, config, data):
    shown = dualselect("train", "--config", config, "--eval_on_start")
    assert shown.code == 0, shown.err
    run = data / "run"
    assert {
        "config.yaml",
        "provenance.json",
        "metrics.jsonl",
        "selection",
        "adapter_model.safetensors",
        "samples.parquet",
        "report.html",
        "README.md",
    } <= {path.name for path in run.iterdir()}
    tasks, references = SelectionLog.read(run)
    assert len(tasks) == 16
    assert len(references) % 6 == 0
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("eval_probe_loss" in event and event["step"] == 0 for event in events)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["task"] == str(data / "task.jsonl")
    assert settings["rho"] == 0.3
    provenance = json.loads((run / "provenance.json").read_text())
    assert provenance["data"]["evaluation probe"]["rows"] == 4

    again = dualselect("train", "--config", run / "config.yaml", "--output_dir", data / "again")
    assert again.code == 0, again.err
    assert same(weights(run), weights(data / "again"))
    ours, theirs = (yaml.safe_load((data / name / "config.yaml").read_text()) for name in ("run", "again"))
    assert {key for key in ours if ours[key] != theirs[key]} <= {"output_dir", "logging_dir", "run_name"}


def test_a_folder_that_is_not_empty_is_left_alone(dualselect, config, data):
    (data / "run").mkdir()
    (data / "run" / "precious").write_text("x")
    shown = dualselect("train", "--config", config)
    assert shown.code == 2
    assert "is not empty; continue with --resume" in shown.err
    assert [path.name for path in (data / "run").iterdir()] == ["precious"]


def test_a_resumed_run_ends_with_the_same_result(dualselect, config, data):
    assert dualselect("train", "--config", config, "--output_dir", data / "whole").code == 0
    assert dualselect("train", "--config", config).code == 0
    run = data / "run"
    shutil.rmtree(run / "checkpoint-4")
    (run / "adapter_model.safetensors").unlink()
    shown = dualselect("train", "--config", config, "--resume")
    assert shown.code == 0, shown.err
    assert same(weights(run), weights(data / "whole"))


@pytest.fixture
def half_done(dualselect, config, data):
    """Return the folder of a run of four steps that was killed after its checkpoint of step 2."""
    assert dualselect("train", "--config", config, "--method", "sft").code == 0
    shutil.rmtree(data / "run" / "checkpoint-4")
    (data / "run" / "adapter_model.safetensors").unlink()
    return data / "run"


@pytest.fixture
def resume(dualselect, config):
    """Return a function that resumes that run with further flags."""
    return lambda *flags: dualselect("train", "--config", config, "--method", "sft", "--resume", *flags)


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "random"],
        ["--learning_rate", "1e-1"],
        ["--lora_r", "8"],
        ["--lora_target_modules", "q_proj"],
        ["--per_device_train_batch_size", "2"],
        ["--gradient_accumulation_steps", "2"],
        ["--seed", "7"],
        ["--optim", "sgd"],
        ["--max_steps", "8"],
        ["--max_length", "32"],
        ["--loss_average", "token"],
    ],
    ids=lambda flags: flags[0].lstrip("-"),
)
def test_a_run_resumed_with_another_setting_is_refused_by_name(resume, half_done, flags):
    before = {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()}
    shown = resume(*flags)
    assert shown.code == 2
    name = {"lora_r": "r", "lora_target_modules": "target_modules"}.get(flags[0].lstrip("-"), flags[0].lstrip("-"))
    assert f"checkpoint-2 was written by a run with another {name} " in shown.err.splitlines()[-1]
    assert {path: path.read_bytes() for path in half_done.rglob("*") if path.is_file()} == before


def test_a_run_resumed_on_another_model_is_refused(resume, half_done, tiny_model_dir, data):
    shutil.copytree(tiny_model_dir, data / "model")
    assert resume("--model", data / "model").code == 0  # the same weights elsewhere
    shutil.rmtree(half_done / "checkpoint-4")
    model = AutoModelForCausalLM.from_pretrained(data / "model")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1.0
    model.save_pretrained(data / "model")
    shown = resume("--model", data / "model")
    assert shown.code == 2
    assert "another starting weights" in shown.err


def test_a_run_resumed_on_other_content_under_the_same_ids_is_refused(resume, half_done, data):
    task = (data / "task.jsonl").read_text()
    (data / "task.jsonl").write_text(task.replace("count 3?", "count three?"))
    shown = resume()
    assert shown.code == 2
    assert "another task data" in shown.err
    (data / "task.jsonl").write_text(task)
    assert resume().code == 0


def test_what_is_only_told_or_saved_may_change_and_is_written_down(resume, half_done):
    shown = resume("--logging_steps", "3", "--save_steps", "1")
    assert shown.code == 0, shown.err
    settings = yaml.safe_load((half_done / "config.yaml").read_text())
    assert settings["save_steps"] == 1
    provenance = json.loads((half_done / "provenance.json").read_text())
    assert [entry["step"] for entry in provenance["resumed"]] == [2]
    assert provenance["resumed"][0]["packages"] == provenance["packages"]


def test_a_checkpoint_that_was_cut_off_is_passed_over(resume, half_done, data):
    killed = half_done / "checkpoint-3"
    killed.mkdir()
    for path in (half_done / "checkpoint-2").glob("dualselect_state.*"):
        shutil.copy(path, killed)  # they are written first
    assert resume().code == 0
    assert (half_done / "checkpoint-4").is_dir()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("optimizer.pt", b""),
        ("adapter_model.safetensors", b"short"),
        ("dualselect_state.json", b"{"),
        ("trainer_state.json", None),
    ],
)
def test_a_damaged_checkpoint_is_one_line(resume, half_done, name, content):
    path = half_done / "checkpoint-2" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    shown = resume()
    assert shown.code == 2
    last = shown.err.splitlines()[-1]
    assert last.startswith("dualselect: error: ")
    assert "checkpoint-2" in last
    assert name in last


def test_checkpoints_without_the_optimizer_are_refused_with_the_cure(resume, dualselect, config, data):
    assert dualselect("train", "--config", config, "--method", "sft", "--save_only_model", "true").code == 0
    shutil.rmtree(data / "run" / "checkpoint-4")
    shown = resume("--save_only_model", "true")
    assert shown.code == 2
    assert "save_only_model=False" in shown.err


def test_a_run_without_a_step_is_no_success(dualselect, config, data):
    flags = ["--per_device_train_batch_size", "32", "--dataloader_drop_last", "true"]
    shown = dualselect("train", "--config", config, "--method", "sft", *flags)
    assert shown.code == 2
    assert "no optimizer step was made: 16 samples, per_device_train_batch_size=32" in shown.err
    assert not (data / "run" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("target", ["q_proj", r".*\.q_proj"], ids=["name", "pattern"])
def test_one_lora_target_trains(dualselect, config, data, target):
    shown = dualselect("train", "--config", config, "--method", "sft", "--lora_target_modules", target)
    assert shown.code == 0, shown.err
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in weights(data / "run")} == {"q_proj"}


def test_a_model_in_4_bit_trains(dualselect, config, data):
    pytest.importorskip("bitsandbytes")
    shown = dualselect("train", "--config", config, "--method", "sft", "--load_in_4bit", "true")
    assert shown.code == 0, shown.err
    moved = [value for name, value in weights(data / "run").items() if "lora_B" in name]
    assert all(torch.isfinite(value).all() and value.any() for value in moved)


def test_4_bit_without_its_library_is_one_line(dualselect, config, monkeypatch):
    monkeypatch.setattr("dualselect.experiments.run_model.find_spec", lambda name: None)
    shown = dualselect("train", "--config", config, "--load_in_4bit", "true")
    assert shown.code == 2
    assert "load_in_4bit needs bitsandbytes" in shown.err


def test_every_method_trains_from_the_same_file(dualselect, config, data):
    for method in ("sft", "random", "safegrad"):
        flags = ["--safe_batch_size", 4] if method == "safegrad" else []
        shown = dualselect("train", "--config", config, "--method", method, "--output_dir", data / method, *flags)
        assert shown.code == 0, shown.err
        assert (data / method / "adapter_model.safetensors").is_file()


def test_full_fine_tuning_saves_a_model(dualselect, config, data):
    shown = dualselect("train", "--config", config, "--no_use_peft", "--learning_rate", "1e-4")
    assert shown.code == 0, shown.err
    assert load_file(data / "run" / "model.safetensors")["model.embed_tokens.weight"].dtype.is_floating_point


def test_shared_prompts_stop_or_are_dropped(dualselect, config, data):
    with (data / "safe.jsonl").open("a") as file:
        file.write(json.dumps({"id": "again", "prompt": "COUNT  3?", "completion": "no"}) + "\n")
    shown = dualselect("train", "--config", config)
    assert shown.code == 2
    assert "'count3' (row 4) and references 'again' (row 7)" in shown.err
    assert dualselect("train", "--config", config, "--prompt_overlap", "drop", "--output_dir", data / "x").code == 0
    assert "again" not in SelectionLog.read(data / "x")[1]["id"].to_pylist()
