import pytest
from datasets import Dataset

from dualselect.reports.samples import categories_of, category_in_id
from dualselect.runs.samples import sample_categories, write_samples


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


def test_what_a_run_has_noted_goes_before_the_id(tmp_path):
    names = ["a-1", "a-2", "poison-x-1"]
    rows = Dataset.from_list([{"prompt": "How?", "category": one} for one in ("Fraud", None, "Fraud")])
    write_samples(tmp_path, {"references": rows}, {"references": names})
    category = categories_of(sample_categories(tmp_path), "references")
    assert [category(name) for name in names] == ["Fraud", "a", "poison"]
    assert categories_of(sample_categories(tmp_path), "task")("a-1") == "a"
