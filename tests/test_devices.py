"""bfloat16 is left to devices that compute in it."""

import pytest
import torch

from dualselect import DualSelectConfig
from dualselect.devices import computes_bfloat16
from dualselect.experiments.arguments import ModelArguments
from dualselect.quickstart.align import _base_dtype


@pytest.fixture(params=[("AVX2", False), ("DEFAULT", False), ("AVX512", True)], ids=lambda pair: pair[0])
def native(request, monkeypatch):
    capability, is_native = request.param
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    return is_native


def test_an_accelerator_always_computes_in_bfloat16(native):
    assert computes_bfloat16("cuda:0")
    assert computes_bfloat16("cpu") is native


@pytest.mark.skipif(torch.accelerator.is_available(), reason="speaks of a machine without an accelerator")
def test_what_is_unset_follows_the_machine(native, tmp_path):
    assert DualSelectConfig(output_dir=str(tmp_path)).bf16 is native
    assert DualSelectConfig(output_dir=str(tmp_path), bf16=True).bf16 is True
    assert ModelArguments().dtype == ("auto" if native else "float32")
    assert ModelArguments(dtype="bfloat16").dtype == "bfloat16"
    assert _base_dtype() is (torch.bfloat16 if native else torch.float32)
