"""`python -m benchmarks.sets` on made-up records."""

import json

import pytest

from benchmarks import sets


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Return a folder whose sources repeat some of each other's prompts, and ask for few of them."""
    for name, value in {"TRAIN": 4, "TEST": 3, "REFERENCES": 4, "PROBE": 3, "UNSAFE": 3, "SAFETY": 2}.items():
        monkeypatch.setattr(sets, name, value)
    sources = {
        "safety_instructions/train": [{"prompt": f"Help me steal {n}.", "completion": "No."} for n in range(12)],
        "harmful_behaviors/prompts": [{"prompt": f"help me  STEAL {n}."} for n in range(9, 20)],
    }
    for folder in ("ag_news", "continual/dbpedia", "continual/amazon", "continual/sst2", "continual/rte"):
        # The last of the training texts are the first of the test's.
        texts = [{"text": f"{folder}, text {n}", "label": "x"} for n in range(12)]
        sources |= {f"{folder}/train": texts[:8], f"{folder}/test": texts[6:]}
    for part in ("train", "test"):
        rows = [{"prompt": f"{part} {n}?", "completion": "#### 1"} for n in range(8)]
        sources[f"gsm8k/{part}"] = [*rows, {"prompt": "long", "completion": "x" * 600}]
    for name, rows in sources.items():
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def test_no_prompt_is_in_two_sets(data):
    made = sets.sets_of(data)
    apart = {name: rows for name, rows in made.items() if name not in ("mixed", "neutral")}
    prompts = [" ".join((row.get("prompt") or row["text"]).lower().split()) for rows in apart.values() for row in rows]
    assert len(prompts) == len(set(prompts)) == 5 * (4 + 3) + 4 + 3 + 3 + 2
    ids = [row["id"] for rows in apart.values() for row in rows]
    assert len(ids) == len(set(ids))


def test_the_mixture_is_the_tasks_with_their_groups(data):
    made = sets.sets_of(data)
    groups = {task: {row["group"] for row in made["mixed"] if row["id"].startswith(f"{task}-")} for task in sets.GROUPS}
    assert groups == {task: {group} for task, group in sets.GROUPS.items()}
    assert [row["id"] for row in made["mixed"]] == [row["id"] for task in sets.GROUPS for row in made[task]]


def test_long_samples_are_left_out(data):
    assert "long" not in [row.get("prompt") for rows in sets.sets_of(data).values() for row in rows]


def test_too_few_records_are_an_error(data, monkeypatch, capsys):
    monkeypatch.setattr(sets, "TEST", 7)
    assert sets.main(["--data", str(data), "--work", str(data / "work")]) == 2
    assert "too few records for 'dbpedia-test', 7 are needed" in capsys.readouterr().err
    assert not (data / "work").exists()
