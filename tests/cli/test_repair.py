"""`dualselect repair`: a finished model edited, saved elsewhere, and left as it was."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dualselect.runs import write_samples

pytestmark = pytest.mark.slow


def digests(folder: Path) -> dict[str, str]:
    """Return the hash of every file in a folder."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def adapter(tmp_path, tiny_model_dir) -> Path:
    """Return a run folder with a LoRA of rank 4 on the tiny model, whose factors are both random."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, param in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(param)
    folder = tmp_path / "run"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder)
    settings = {"method": "sft", "model_name_or_path": str(tiny_model_dir), "max_length": 64, "seed": 7}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    task = Dataset.from_list([{"prompt": "how many?", "completion": "many"}])
    write_samples(folder, {"task": task}, {"task": ["t0"]})
    return folder


@pytest.fixture
def harmful(tmp_path) -> Path:
    """Return a file of harmful prompts with answers."""
    rows = [{"id": f"h{n}", "prompt": f"why {n}?", "completion": "because " * (n + 1)} for n in range(5)]
    path = tmp_path / "harmful.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def repaired(dualselect, harmful, tmp_path) -> Callable[..., Any]:
    """Return a function `(model, *flags) -> outcome` that repairs into `tmp_path / "out"`."""

    def run(model: Path, *flags: str) -> Any:
        common = ("--method", "antidote", "--model", model, "--output_dir", tmp_path / "out")
        return dualselect("repair", *common, "--pools", f"harmful={harmful}", *flags)

    return run


def test_an_adapter_loses_its_share_and_the_run_stays_as_it_was(repaired, adapter, tmp_path, tiny_model_dir):
    before, start = digests(adapter), digests(tiny_model_dir)
    shown = repaired(adapter, "--dense_ratio", "0.25")
    assert shown.code == 0, shown.err
    assert digests(adapter) == before
    assert digests(tiny_model_dir) == start
    old, new = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "out"))
    assert list(old) == list(new)
    for name, weight in new.items():
        assert ((weight == 0).sum(1) == weight.shape[1] // 4).all()
        assert torch.equal(weight[weight != 0], old[name][weight != 0])


def test_the_result_is_a_run_folder_that_names_its_source(repaired, adapter, harmful, tmp_path, tiny_model_dir):
    assert repaired(adapter).code == 0
    out = tmp_path / "out"
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["repaired"] == str(adapter)
    assert len(config["repaired_sha256"]) == 64
    assert (config["method"], config["dense_ratio"]) == ("antidote", 0.1)
    assert config["pools"] == {"harmful": str(harmful)}
    assert config["source"]["method"] == "sft"
    assert config["model_name_or_path"] == str(tiny_model_dir)
    provenance = json.loads((out / "provenance.json").read_text())
    assert provenance["data"]["harmful"]["rows"] == 5
    assert provenance["seeds"] == {"seed": 7}
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    PeftModel.from_pretrained(base, out)
    assert AutoTokenizer.from_pretrained(out).chat_template
    written = json.loads((out / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(tiny_model_dir)


def test_prompts_of_the_run_and_of_the_pool_are_remembered_for_evaluation(repaired, adapter, tmp_path):
    assert repaired(adapter).code == 0
    rows = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert [(row["role"], row["id"]) for row in rows] == [
        ("task", "t0"),
        *(("harmful", f"h{n}") for n in range(5)),
    ]


def test_where_the_training_prompts_are_unknown_none_are_claimed(repaired, adapter, tmp_path):
    (adapter / "samples.parquet").unlink()
    assert repaired(adapter).code == 0
    assert not (tmp_path / "out" / "samples.parquet").exists()


def test_a_whole_model_is_repaired_and_saved_whole(repaired, tiny_model_dir, tmp_path):
    start = digests(tiny_model_dir)
    assert repaired(tiny_model_dir, "--dense_ratio", "0.5").code == 0
    assert digests(tiny_model_dir) == start
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    weight = model.model.layers[0].mlp.down_proj.weight
    assert ((weight == 0).sum(1) == weight.shape[1] // 2).all()
    assert (model.lm_head.weight != 0).all()


def test_samples_become_tokens_by_the_settings_of_the_run(repaired, adapter, tmp_path):
    settings = yaml.safe_load((adapter / "config.yaml").read_text())
    (adapter / "config.yaml").write_text(yaml.safe_dump(settings | {"max_length": 2}))
    shown = repaired(adapter)
    assert shown.code == 2
    assert "max_length=2" in shown.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--method", "sft"), "method 'sft' does nothing after training, so it cannot repair; choose antidote"),
        (("--method", "antidot"), "did you mean 'antidote'"),
        ((), "method 'antidote' needs harmful: give --pools harmful=SOURCE"),
        (("--pools", "harmful"), "'harmful' is not NAME=SOURCE"),
        (("--dense_ratio", "2"), "dense_ratio is 2"),
        (("--dense_ratio", "much"), "invalid float value"),
        (("--dense_rato", "0.2"), "unknown option '--dense_rato'; did you mean '--dense_ratio'"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(dualselect, adapter, tmp_path, flags, message):
    shown = dualselect("repair", "--model", adapter, "--output_dir", tmp_path / "out", *flags)
    assert shown.code == 2
    said = [line for line in shown.err.splitlines() if line.startswith("dualselect: error: ")]
    assert len(said) == 1
    assert message in said[0]
    assert "Traceback" not in shown.err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(dualselect, adapter, harmful):
    before = digests(adapter)
    shown = dualselect("repair", "--model", adapter, "--output_dir", adapter, "--pools", f"harmful={harmful}")
    assert shown.code == 2
    assert "is not empty and is not overwritten" in shown.err
    assert digests(adapter) == before


def test_help_shows_the_options_of_the_method(dualselect):
    shown = dualselect("repair", "--help")
    assert shown.code == 0
    assert "--dense_ratio" in shown.out
