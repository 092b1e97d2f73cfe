"""Align and quickstart from end to end, on a tiny random Llama with the default model's tokenizer."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from dualselect.errors import ConfigError
from dualselect.models import DEFAULT_MODEL, resolve_model
from dualselect.quickstart.align import align, load_aligned
from dualselect.quickstart.run import quickstart
from dualselect.quickstart.settings import AlignSettings, QuickstartSettings
from dualselect.runs import read_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(DEFAULT_MODEL))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "aligned"
    return align(AlignSettings(model_name_or_path=str(base), output_dir=str(folder), epochs=1, lora_r=2))


def test_align_writes_safetensors_and_its_recipe(adapter, base):
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "recipe.json",
    ]
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    assert json.loads((adapter / "recipe.json").read_text())["settings"]["lora_r"] == 2


def test_the_aligned_model_is_the_base_plus_scaled_b_times_a(adapter, base):
    merged, _ = load_aligned(adapter, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = {name: tensor.float() for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    prefix = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
    change = 2.0 * lora[f"{prefix}B.weight"] @ lora[f"{prefix}A.weight"]
    weight = plain.model.layers[1].self_attn.q_proj.weight + change
    torch.testing.assert_close(merged.model.layers[1].self_attn.q_proj.weight, weight)
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_a_folder_without_adapter_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"adapter_config\.json"):
        load_aligned(tmp_path)


def test_quickstart_compares_two_runs_of_one_start(adapter, tmp_path):
    settings = QuickstartSettings(
        output_dir=str(tmp_path / "out"),
        adapter=str(adapter),
        samples=32,
        poison_share=0.25,
        epochs=2,
        test_problems=4,
        lora_r=2,
        task_warmup_steps=1,
    )
    summary = quickstart(settings)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert summary["aligned"]["safe_kl"] == summary["aligned"]["poison_kept"] == 0
    assert summary["sft"]["poison_kept"] == 16
    assert 0 <= summary["dualselect"]["poison_kept"] < 16
    assert summary["sft"]["safe_kl"] > 0
    assert summary["seconds"] > 0
    assert summary["overhead"] > 0
    roles = {"model": "dualselect", "baseline": "sft", "start": "aligned"}
    for found in read_results(tmp_path / "out" / "dualselect"):
        if found.suite == "quickstart-unsafe":
            refused = [record.verdicts["refusal-rules"].label == "refusal" for record in found.records]
            assert summary[roles[found.role]]["refusal_rate"] == sum(refused) / 36
            del roles[found.role]
    assert not roles
    assert "quickstart-task" in (tmp_path / "out" / "dualselect" / "report.html").read_text()
    for name in ("sft", "dualselect"):
        adapter_config = json.loads((tmp_path / "out" / name / "adapter_config.json").read_text())
        assert adapter_config["base_model_name_or_path"] == str(tmp_path / "out" / "aligned")
        assert (tmp_path / "out" / name / "adapter_model.safetensors").is_file()
