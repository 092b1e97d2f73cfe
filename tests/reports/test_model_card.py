import json
import re

import pytest
import yaml

from dualselect.errors import DataError
from dualselect.reports import write_model_card
from dualselect.reports.model_card import escaped, hub_datasets, table
from dualselect.runs.results import Metric, Record, SuiteResult

pytestmark = pytest.mark.slow


def parts(path):
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_head_says_what_the_hub_reads(run_folder, tmp_path):
    head, _ = parts(write_model_card(run_folder, tmp_path / "card.md"))
    assert head["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert head["library_name"] == "peft"
    assert head["datasets"] == ["openai/gsm8k", "Anthropic/hh-rlhf"]
    assert "dualselect" in head["tags"]


def test_every_value_stands_with_interval_n_and_seeds(run_folder, tmp_path):
    _, body = parts(write_model_card(run_folder, tmp_path / "card.md"))
    rows = [line for line in body.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 10
    for row in rows:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 9
        assert re.search(r"\d", cells[4])
        assert re.fullmatch(r"\\\[.+, .+\\\]", cells[5])
        assert re.match(r"\d+", cells[6])
        assert cells[7] == "1"


def test_the_card_names_data_method_settings_and_limits(run_folder, tmp_path):
    _, body = parts(write_model_card(run_folder, tmp_path / "card.md"))
    for text in ("## Method", "- rho: 0.3", "## Training data", "160 rows", "## Limits", "not other seeds"):
        assert text in body


def test_the_readme_of_the_folder_is_replaced(make_run, tmp_path):
    make_run(tmp_path)
    (tmp_path / "README.md").write_text("old")
    assert write_model_card(tmp_path) == tmp_path / "README.md"
    assert "Nothing has been measured" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_path_of_this_machine_is_no_base_model(make_run, tmp_path):
    make_run(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text()) | {"model_name_or_path": "/home/me/my-model"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    head, body = parts(write_model_card(tmp_path))
    assert "base_model" not in head
    assert "Fine-tuned from my-model with" in body


def test_names_from_data_cannot_become_markup(make_run, tmp_path):
    make_run(tmp_path)
    hostile = "a | b\n---\n# <script>alert(1)</script> [x](javascript:alert(1))"
    metrics = {"m": Metric(hostile, "higher")}
    SuiteResult("suite", "safety", "model", {"name": hostile}, metrics, [Record("1", "p", values={"m": 1.0})]).write(
        tmp_path
    )
    provenance = json.loads((tmp_path / "provenance.json").read_text()) | {"python": hostile}
    (tmp_path / "provenance.json").write_text(json.dumps(provenance))
    head, body = parts(write_model_card(tmp_path))
    assert head["library_name"] == "peft"
    assert "<script>" not in body
    assert "](javascript" not in body
    assert not re.search(r"^# <", body, re.MULTILINE)


def test_escaped_text_is_one_line_without_markup():
    assert escaped("- a-b") == "\\- a-b"
    assert escaped("a|b\n*c* <d> `e`") == "a\\|b \\*c\\* &lt;d&gt; \\`e\\`"
    assert table(["x"], [["1|2"]]).splitlines() == ["| x |", "| --- |", "| 1\\|2 |"]


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"task": "owner/name:conf", "references": "owner/name/folder"}, ["owner/name"]),
        ({"task": "data/task.jsonl", "references": "/abs/pool"}, []),
        ({"evaluation": ["probe=owner/probe"]}, ["owner/probe"]),
        ({"evaluation": {"probe": "owner/probe"}}, ["owner/probe"]),
        ({}, []),
    ],
)
def test_only_hub_ids_are_data_sets(config, found):
    assert hub_datasets(config) == found


def test_a_comparison_is_refused(compare_folder):
    with pytest.raises(DataError, match="about one model"):
        write_model_card(compare_folder)
