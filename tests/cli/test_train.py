"""`dualselect train` from file to run folder, and again from the run folder."""

import json
import shutil

import yaml
from safetensors.torch import load_file

from dualselect.training.selection_log import SelectionLog


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(left, right):
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


def test_a_run_leaves_its_folder_and_its_settings_make_it_again(dualselect, config, data):
    shown = dualselect("train", "--config", config)
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
    assert "is not empty; go on with --resume" in shown.err
    assert [path.name for path in (data / "run").iterdir()] == ["precious"]


def test_resume_goes_on_to_the_same_end(dualselect, config, data):
    assert dualselect("train", "--config", config, "--output_dir", data / "whole").code == 0
    assert dualselect("train", "--config", config).code == 0
    run = data / "run"
    shutil.rmtree(run / "checkpoint-4")
    (run / "adapter_model.safetensors").unlink()
    shown = dualselect("train", "--config", config, "--resume")
    assert shown.code == 0, shown.err
    assert same(weights(run), weights(data / "whole"))
    shown = dualselect("train", "--config", config, "--resume", "--rho", "0.9")
    assert shown.code == 2
    assert "rho" in shown.err


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
