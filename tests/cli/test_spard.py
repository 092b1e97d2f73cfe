"""`dualselect train --method spard`: however a step is split, the same references are chosen and the weights agree."""

import json

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("projection", ["paper", "released-code"])
def test_spard_chooses_and_trains_alike_in_one_batch_and_in_four(dualselect, config, data, projection):
    flags = ["--method", "spard", "--safe_fraction", 0.2, "--largest_factor", 0.05, "--projection", projection]
    flags += ["--lora_dropout", 0, "--adam_epsilon", 1e-5]  # so that neither draws nor rounding depend on the split
    split = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 4]
    weights, chosen = [], []
    for folder, more in (("one", []), ("four", split)):
        shown = dualselect("train", "--config", config, "--output_dir", data / folder, *flags, *more)
        assert shown.code == 0, shown.err
        weights.append(load_file(data / folder / "adapter_model.safetensors"))
        state = json.loads((data / folder / "checkpoint-2" / "dualselect_state.json").read_text())
        chosen.append(state["values"]["chosen"])
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 4
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-3, atol=1e-5)
