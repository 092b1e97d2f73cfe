import json

import pytest

from dualselect.errors import ConfigError
from dualselect.models import EndpointTarget, LoadedTarget, LocalModels, open_target
from dualselect.models.cache import AnswerCache

pytest.importorskip("openai")


@pytest.mark.parametrize(
    ("spec", "model", "base_url"),
    [
        ("api:m@http://127.0.0.1:9/v1", "m", "http://127.0.0.1:9/v1"),
        ("api:org/m@latest@https://host/v1", "org/m@latest", "https://host/v1"),
        ("api:m", "m", None),
    ],
)
def test_endpoints_are_identified_by_model_and_address(monkeypatch, spec, model, base_url):
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    target = open_target(spec)
    assert isinstance(target, EndpointTarget)
    assert (target.endpoint.model, target.endpoint.base_url, target.name) == (model, base_url, spec)


def test_folders_are_opened_with_the_models_that_are_there(tiny_model_dir, make_adapter, tmp_path):
    models = LocalModels(cache=AnswerCache(tmp_path / "answers"))
    folder = make_adapter("adapter", 1)
    targets = [open_target(f"{folder}/", models=models), open_target(str(tiny_model_dir), models=models)]
    assert all(isinstance(target, LoadedTarget) and target.cache is models.cache for target in targets)
    assert targets[0].model.lm_head is targets[1].model.lm_head
    assert targets[0].name == str(folder)


@pytest.mark.parametrize("spec", ["", " ", "api:", "api:@http://host/v1", "api:m@localhost:8000"])
def test_a_text_that_names_no_model_is_refused(spec):
    with pytest.raises(ConfigError, match=r"names no model|names no URL|name is empty"):
        open_target(spec)


def test_a_missing_base_names_adapter_and_base(make_adapter):
    folder = make_adapter("adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/gone/base"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=f"{folder}: its base model could not be loaded: /gone/base: there is no such"
    ):
        open_target(str(folder))


def test_an_adapter_on_an_adapter_is_refused(make_adapter):
    lower, upper = make_adapter("lower"), make_adapter("upper")
    config = json.loads((upper / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(lower)
    (upper / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="is an adapter itself; merge"):
        open_target(str(upper))


def test_damaged_weights_are_named(tiny_model_dir, make_adapter, tmp_path):
    for path in tiny_model_dir.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"12345678" * 9)
    with pytest.raises(ConfigError, match=f"{tmp_path}: could not load its model"):
        open_target(str(tmp_path))
    adapter = make_adapter("adapter")
    (adapter / "adapter_model.safetensors").write_bytes(b"12345678" * 9)
    with pytest.raises(ConfigError, match=f"{adapter}: the adapter does not fit its base model"):
        open_target(str(adapter))
