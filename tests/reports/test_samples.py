import json

import pytest

from dualselect.reports.samples import category_in_id, read_samples


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("violence-01", "violence"),
        ("self-harm-02", "self-harm"),
        ("poison-fraud-02", "poison"),
        ("arithmetic-train-0055", "arithmetic-train"),
        ("0f3a9b6c7d8e9f01", "no category"),
        ("0f3a9b6c7d8e9f01-2", "no category"),
        ("", "no category"),
    ],
)
def test_ids_tell_their_category(name, category):
    assert category_in_id(name) == category


def test_data_on_this_machine_tell_categories_and_texts(tmp_path):
    path = tmp_path / "references.jsonl"
    rows = [
        {"id": "a-1", "category": "Fraud", "prompt": "How?", "completion": "No."},
        {"id": "a-2", "prompt": "Why?", "completion": "Never."},
        {"id": "poison-x-1", "category": "Fraud", "prompt": "When?", "completion": "Sure."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = read_samples({"references": str(path)}, "references", {"a-1", "poison-x-1"})
    assert samples.notes == []
    assert samples.category("a-1") == "Fraud"
    assert samples.category("a-2") == "a"
    assert samples.category("poison-x-1") == "poison"
    assert samples.texts["a-1"] == ("How?", "No.")
    assert "a-2" not in samples.texts


@pytest.mark.parametrize("config", [{}, {"task": "owner/name"}, {"task": "gone.jsonl"}])
def test_data_that_are_elsewhere_are_not_fetched_but_noted(config):
    samples = read_samples(config, "task", {"violence-01"})
    assert samples.category("violence-01") == "violence"
    assert len(samples.notes) == 1


def test_data_that_can_not_be_read_are_noted(tmp_path):
    (tmp_path / "task.jsonl").write_text("{\n")
    assert "task.jsonl" in read_samples({"task": str(tmp_path / "task.jsonl")}, "task", {"a-1"}).notes[0]
