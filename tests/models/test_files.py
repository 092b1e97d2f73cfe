import json
import os
import shutil
from pathlib import Path

import pytest

from dualselect.errors import ConfigError
from dualselect.models import files as weights_module
from dualselect.models.files import content_hash, file_hash, locate


def test_a_file_is_hashed_again_only_when_it_has_changed(tmp_path, monkeypatch):
    path, digest, hashed = tmp_path / "file", weights_module.file_digest, []
    monkeypatch.setattr(weights_module, "file_digest", lambda *given: hashed.append(1) or digest(*given))
    path.write_bytes(b"abc")
    sha256_of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert [file_hash(path), file_hash(path)] == [sha256_of_abc] * 2
    assert len(hashed) == 1
    path.write_bytes(b"abd")
    os.utime(path, ns=(1, 1))
    assert file_hash(path) != sha256_of_abc
    assert len(hashed) == 2


def test_the_content_of_a_folder_includes_its_tokenizer_and_leaves_out_its_pages(tiny_model_dir, tmp_path):
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    before = content_hash(folder)
    (folder / "report.html").touch()
    assert content_hash(folder) == content_hash(tiny_model_dir) == before
    for name in ("tokenizer.json", "model.safetensors", "chat_template.jinja"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        assert content_hash(folder) != before, name
        before = content_hash(folder)


def test_a_model_of_the_hub_is_known_by_its_commit(tiny_model_dir, tmp_path, monkeypatch):
    asked = []

    def snapshot(name, revision, **_):
        asked.append((name, revision))
        folder = tmp_path / "snapshots" / (revision or "newest")
        folder.parent.mkdir(exist_ok=True)
        if not folder.exists():
            folder.symlink_to(tiny_model_dir)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    newest, older = locate("lab/model"), locate("lab/model", revision="c0ffee")
    assert asked == [("lab/model", None), ("lab/model", "c0ffee")]
    assert (newest.revision, older.revision) == ("newest", "c0ffee")
    assert len({newest.hash, older.hash, locate("lab/other").hash}) == 3


def test_a_model_found_neither_locally_nor_on_the_hub_is_named():
    with pytest.raises(ConfigError, match="lab/none: not a local folder, and not found on the hub"):
        locate("lab/none")


@pytest.mark.parametrize("place", ["/no/such/folder", "./none", "runs/none/deeper", "~/none-of-this"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(place, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ConfigError, match=f"{place}: there is no such folder"):
        locate(place)


def test_a_run_that_did_not_end_points_to_its_checkpoints(tmp_path):
    for step in (10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (step, step))
    with pytest.raises(ConfigError, match=r"is unfinished: .* such as .*checkpoint-20"):
        locate(str(tmp_path))


def test_a_folder_with_something_else_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"contains neither adapter_config.json nor config.json"):
        locate(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"contains no \*.safetensors"):
        locate(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"contains no adapter_model.safetensors"):
        locate(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_without_a_base_is_named(make_adapter, content):
    folder = make_adapter("adapter")
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(
        ConfigError, match=r"adapter_config.json: (not an adapter configuration|base_model_name_or_path)"
    ):
        locate(str(folder)).adapter_config()


def test_the_place_of_the_base_is_not_part_of_the_hash(make_adapter):
    folder = make_adapter("adapter")
    before, path = locate(str(folder)).hash, Path(folder, "adapter_config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": "elsewhere"}))
    assert locate(str(folder)).hash == before
    path.write_text(json.dumps({**config, "lora_alpha": 1}))
    assert locate(str(folder)).hash != before
