"""OSF in a stream: every stage decomposes the weights that the stage before left."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from dualselect.continual.merging import merged_model
from dualselect.continual.run import run
from dualselect.reports import write_report
from dualselect.runs.stream import read_matrix

pytestmark = pytest.mark.slow


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_a_stream_of_osf_ends_with_both_adapters_merged(settings_of, make_plan, tiny_model_dir, tmp_path):
    method = {"osf": {"method": "sft", "adapter": "osf", "osf_rank": 0.5}}
    assert run(make_plan(settings_of(methods=method, keep_models=True)))
    cell = tmp_path / "stream/cells/osf-seed0"
    first = merged_model(str(tiny_model_dir), [cell / "1-colour"], tmp_path / "first")
    second = PeftModel.from_pretrained(load(first), cell / "2-size")
    assert second.peft_config["default"].peft_type.value == "OSF"
    tokens = torch.arange(3, 19)[None]
    expected = second(tokens).logits
    torch.testing.assert_close(load(cell / "after-2-size")(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    with second.disable_adapter():
        assert (second(tokens).logits - expected).abs().max() > 1e-3
    rows = read_matrix(tmp_path / "stream").to_pylist()
    assert {(row["stage"], row["task"]) for row in rows if row["method"] == "osf"} >= {
        (stage, task) for stage in (1, 2) for task in ("colour", "size")
    }
    page = write_report(tmp_path / "stream").read_text(encoding="utf-8")
    assert '<section id="stream"' in page
