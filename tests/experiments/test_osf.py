"""OSF through PEFT: what it leaves alone, which methods go with it, and its adapters merged as a stream merges them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from dualselect.continual.merging import merged_model
from dualselect.errors import ConfigError
from dualselect.experiments.run_model import adapter_config
from dualselect.experiments.settings import Settings, parse_settings
from dualselect.experiments.train import train
from dualselect.models import open_target

TARGETS = ["q_proj", "v_proj", "down_proj"]  # square, wide and tall
TOKENS = torch.arange(3, 19)[None]


@pytest.fixture
def make_settings(tmp_path: Path, tiny_model_dir: Path) -> Callable[..., Settings]:
    """Return a function from further flags to the settings of an OSF run of one SGD step."""
    rows = [{"prompt": f"count {n}?", "completion": "count " * (1 + n % 3)} for n in range(4)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(*flags: str) -> Settings:
        given = {"model": tiny_model_dir, "task": tmp_path / "task.jsonl", "output_dir": tmp_path / "run"}
        given |= {"method": "sft", "adapter": "osf", "optim": "sgd", "learning_rate": 0.1, "max_steps": 1}
        given |= {"report_to": "none", "save_strategy": "no", "bf16": "false", "dtype": "float32"}
        named = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        return parse_settings([*named, "--lora_target_modules", *TARGETS, *flags])

    return make


def test_at_the_start_the_output_is_that_of_the_base_model(make_settings, tiny_model):
    expected = tiny_model(TOKENS).logits
    model = get_peft_model(tiny_model, adapter_config(make_settings()))
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("average", ["sample", "token"])
def test_a_step_keeps_clear_of_the_largest_singular_directions(make_settings, tiny_model_dir, average):
    model = train(make_settings("--loss_average", average, "--osf_rank", "0.25")).model
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "osf_svd_params")}
    assert len(layers) == 2 * len(TARGETS)
    for name, layer in layers.items():
        weight = base.get_submodule(name.removeprefix("base_model.model.")).weight.detach()
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        kept = len(values) // 4
        factors = layer.osf_svd_params["default"]
        rise = factors["U_low"].detach() - left[:, kept:]  # one SGD step is the gradient
        turn = factors["V_low"].detach() - right[kept:]
        assert min(rise.abs().max(), turn.abs().max()) > 1e-5
        assert (left[:, :kept].T @ rise).abs().max() < 1e-2 * rise.abs().max()
        assert (turn @ right[:kept].T).abs().max() < 1e-2 * turn.abs().max()


def test_a_run_is_opened_and_merged_as_any_other(make_settings, tiny_model_dir, tmp_path):
    trained = train(make_settings()).model.eval()
    expected = trained(TOKENS).logits
    opened = open_target(str(tmp_path / "run"), dtype="float32")
    torch.testing.assert_close(opened.model(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)
    merged = merged_model(str(tiny_model_dir), [tmp_path / "run"], tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert not isinstance(model, PeftModel)
    torch.testing.assert_close(model(TOKENS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["dualselect", "replay", "ewc", "o-lora", "random"])
def test_methods_that_act_on_gradients_are_refused(make_settings, method):
    with pytest.raises(ConfigError, match=f"adapter 'osf' does not go with method '{method}'"):
        adapter_config(make_settings("--method", method))


def test_ranks_are_numbers_or_shares(make_settings):
    assert adapter_config(make_settings()).effective_rank is None
    assert adapter_config(make_settings("--osf_rank", "0.25")).effective_rank == 0.25
    whole = adapter_config(make_settings("--osf_rank", "4")).effective_rank
    assert isinstance(whole, int)
    assert whole == 4
    for rank in ("0", "2.5", "-1"):
        with pytest.raises(ConfigError, match="osf_rank"):
            make_settings("--osf_rank", rank)
    assert type(adapter_config(make_settings("--adapter", "lora"))).__name__ == "LoraConfig"
