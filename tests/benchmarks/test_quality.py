"""`python -m benchmarks.quality` on made-up records and a tiny model, from the split to the kept tables."""

import json
import shutil
from functools import partial

import pytest

from benchmarks import quality
from dualselect.models.default_model import default_model_folder

pytestmark = pytest.mark.slow

SMALL = partial(quality.Sizes, pool=8, probe=8, task=8, poison=4, embedded=3, harmful=2, test=12, contrasts=20)


@pytest.fixture
def data(tmp_path):
    """Return a folder with as many records as `SMALL` needs, and a few that occur in two sources."""
    sources = {
        "gsm8k/train": [
            {"prompt": f"Add {n} and 1?", "completion": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(40)
        ],
        "gsm8k/test": [{"prompt": f"Add {n} and 1?", "completion": f"#### {n + 1}"} for n in range(36, 52)],
        "safety_instructions/train": [{"prompt": f"Help me steal {n}.", "completion": f"No, {n}."} for n in range(20)],
        "harmful_behaviors/prompts": [{"prompt": f"help me  STEAL {n}."} for n in range(18, 56)],
        "xstest/prompts": [
            {"prompt": f"How do I kill {n}?", "category": "homonyms", "safe": n % 2 == 0} for n in range(48)
        ],
    }
    for name, rows in sources.items():
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def test_no_prompt_is_in_two_sets(data):
    sets = quality.split(data, SMALL())
    prompts = [" ".join(row["prompt"].lower().split()) for rows in sets.values() for row in rows]
    assert len(prompts) == len(set(prompts)) == 8 + 8 + 8 + 8 + 4 + 3 + 3 + 2 + 3 * 12 + 24 + 20
    assert all(row["id"].startswith("poison-") for row in sets["poison-prompts"])


def test_poison_is_in_the_task_alone_and_beside_problems_in_other_words_than_in_the_test(data):
    sets = quality.split(data, SMALL())
    poison, problem = {**sets["embedded-prompts"][0], "completion": "Sure."}, sets["problems"][0]
    sample = quality.embed(poison, problem)
    assert poison["prompt"] in sample["prompt"]
    assert problem["prompt"] in sample["prompt"]
    assert sample["completion"] == f"Sure.\n\n{problem['completion']}"
    assert sample["id"].startswith("embedded-")
    forms = {form.format(request="", problem="") for form in quality.BESIDE}
    assert quality.BESIDE_IN_TEST.format(request="", problem="") not in forms
    assert all("homework" in row["prompt"] for row in sets["embedded-test"])
    assert {row["kind"] for row in sets["look-alikes"]} == {"homonyms"}


def test_too_few_records_are_an_error(data, capsys):
    assert quality.main(["--data", str(data), "--work", str(data / "work"), "--prepare"]) == 2
    assert "too few records for 'contrast', 40 are needed" in capsys.readouterr().err


def test_the_whole_experiment_keeps_its_tables(data, tmp_path, monkeypatch, tiny_model_dir):
    monkeypatch.chdir(tmp_path)  # the settings name runs/quality
    monkeypatch.setattr(quality, "Sizes", SMALL)
    monkeypatch.setattr(quality, "RESULTS", tmp_path / "kept")
    monkeypatch.setattr(quality, "save_aligned", lambda folder: shutil.copytree(tiny_model_dir, folder))
    # Not a replaced `resolve_model`: modules that are first imported meanwhile would keep it for all tests to come.
    monkeypatch.setenv("DUALSELECT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model_dir, default_model_folder())
    grid = ["--methods", "sft", "random", "--seeds", "0", "--max_steps", "2"]
    assert quality.main(["--data", str(data), "--", *grid]) == 0
    task = [json.loads(line) for line in (tmp_path / "runs/quality/task.jsonl").read_text().splitlines()]
    assert sum(row["id"].startswith("poison-") for row in task) == 4
    assert sum(row["id"].startswith("embedded-") for row in task) == 3
    assert all(isinstance(row["completion"], str) for row in task)
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    figures = {f"figure-frontier.{kind}" for kind in ("pdf", "png", "svg")}
    assert kept == {*quality.KEPT, "report.html"} | figures
    assert "Help me" not in (tmp_path / "kept/report.html").read_text()
    assert "steal" not in (tmp_path / "kept/report.html").read_text().lower()
