from dualselect.evaluation.judges.local_models import fingerprint


def test_a_hub_model_is_known_by_the_commit_in_the_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert fingerprint("org/guard") == ""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--guard"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    assert fingerprint("org/guard") == commit


def test_a_folder_is_known_by_all_that_changes_its_verdicts(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = bytearray(300_000)
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "README.md").write_text("one")
    first = fingerprint(str(tmp_path))
    (tmp_path / "README.md").write_text("two")
    assert fingerprint(str(tmp_path)) == first
    weights[150_000] = 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    second = fingerprint(str(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert len({first, second, fingerprint(str(tmp_path))}) == 3
