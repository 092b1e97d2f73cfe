"""The merged model: the sum of base and adapters, the same however it was made."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from dualselect.continual.merging import STATE_FILE, merged_model

IDS = torch.tensor([[5, 9, 33, 70, 12, 8]])


@pytest.fixture
def adapters(make_adapter):
    """Return two adapters, of other ranks, scales and modules."""
    return [
        make_adapter("first", 1, r=4, lora_alpha=8),
        make_adapter("second", 2, r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"]),
    ]


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_logits_are_those_of_the_base_with_both_deltas(tmp_path, tiny_model_dir, adapters):
    place = merged_model(str(tiny_model_dir), adapters, tmp_path / "model")
    merged = LlamaForCausalLM.from_pretrained(place)
    by_hand = LlamaForCausalLM.from_pretrained(tiny_model_dir)
    for adapter, scale in zip(adapters, (8 / 4, 6 / 2), strict=True):
        factors = load_file(adapter / "adapter_model.safetensors")
        for name in [name for name in factors if ".lora_A." in name]:
            module = by_hand.get_submodule(name.removeprefix("base_model.model.").split(".lora_A.")[0])
            module.weight.data += scale * factors[name.replace("lora_A", "lora_B")] @ factors[name]
    expected = by_hand(IDS).logits
    assert torch.allclose(merged(IDS).logits, expected, atol=1e-5)
    assert not torch.allclose(LlamaForCausalLM.from_pretrained(tiny_model_dir)(IDS).logits, expected, atol=1e-2)


def test_made_at_once_it_equals_what_was_made_stage_by_stage(tmp_path, tiny_model_dir, adapters):
    merged_model(str(tiny_model_dir), adapters[:1], tmp_path / "model")
    merged_model(str(tiny_model_dir), adapters, tmp_path / "model")
    merged_model(str(tiny_model_dir), adapters, tmp_path / "again")
    stepwise, at_once = weights(tmp_path / "model"), weights(tmp_path / "again")
    assert stepwise.keys() == at_once.keys()
    assert all(torch.equal(stepwise[name], at_once[name]) for name in stepwise)


def test_what_is_there_is_used_and_what_is_stale_is_not(tmp_path, tiny_model_dir, adapters):
    folder = tmp_path / "model"
    merged_model(str(tiny_model_dir), adapters, folder)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    merged_model(str(tiny_model_dir), adapters, folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    expected = weights(folder)
    merged_model(str(tiny_model_dir), adapters[::-1], folder)  # other adapters than those that are merged
    merged_model(str(tiny_model_dir), adapters[:1], folder)  # fewer
    merged_model(str(tiny_model_dir), adapters, folder)
    assert all(torch.equal(weights(folder)[name], expected[name]) for name in expected)


def test_half_a_model_is_made_again(tmp_path, tiny_model_dir, adapters):
    folder = tmp_path / "model"
    merged_model(str(tiny_model_dir), adapters, folder)
    expected = weights(folder)
    shutil.copytree(folder, tmp_path / ".model.tmp")  # killed before the two changed places
    (folder / STATE_FILE).unlink()
    (folder / "model.safetensors").unlink()
    merged_model(str(tiny_model_dir), adapters, folder)
    assert all(torch.equal(weights(folder)[name], expected[name]) for name in expected)
    assert not (tmp_path / ".model.tmp").exists()


def test_without_adapters_it_is_the_base_and_a_whole_model_is_taken_as_it_is(tmp_path, tiny_model_dir, adapters):
    assert merged_model(str(tiny_model_dir), [], tmp_path / "model") == str(tiny_model_dir)
    whole = tmp_path / "whole"
    shutil.copytree(tiny_model_dir, whole)
    assert merged_model("unused", [adapters[0], whole], tmp_path / "model") == str(whole)
    assert not (tmp_path / "model").exists()
