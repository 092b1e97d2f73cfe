"""What a run was made from is known by content."""

import json

import torch
from peft import LoraConfig, get_peft_model

from dualselect.runs.provenance import PROVENANCE_FILE, add_resumption, plain, weights_hash


def test_the_hash_of_weights_is_the_base_model_s_whatever_adapter_is_on_it(make_tiny_model):
    base = weights_hash(make_tiny_model())
    for options in ({"target_modules": ["q_proj"]}, {"target_modules": "all-linear"}, {"modules_to_save": ["lm_head"]}):
        model = get_peft_model(make_tiny_model(), LoraConfig(**({"target_modules": ["v_proj"]} | options)))
        assert weights_hash(model) == base


def test_the_hash_of_weights_sees_one_bit(make_tiny_model):
    model = make_tiny_model()
    before = weights_hash(model)
    bits = model.model.norm.weight.detach().view(torch.int32)
    bits[3] ^= 1
    assert weights_hash(model) != before
    bits[3] ^= 1
    assert weights_hash(model) == before


def test_resumptions_are_added_in_their_order(tmp_path):
    (tmp_path / PROVENANCE_FILE).write_text(json.dumps({"model": {"sha256": "x"}}))
    for step in (2, 6):
        add_resumption(tmp_path, step)
    content = json.loads((tmp_path / PROVENANCE_FILE).read_text())
    assert content["model"] == {"sha256": "x"}
    assert [entry["step"] for entry in content["resumed"]] == [2, 6]
    assert content["resumed"][0]["packages"]["torch"] == torch.__version__


def test_sets_are_written_in_one_order():
    assert plain({"targets": {"v", "q", "k"}}) == {"targets": ["k", "q", "v"]}
