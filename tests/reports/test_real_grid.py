"""A grid that was really trained and evaluated, and its pages: they say what the files of the cells say."""

import json
import re
from statistics import mean

import pytest

from dualselect.cli import main
from dualselect.reports import write_model_card, write_report

pytestmark = pytest.mark.slow

SAFETY, PROBE = "builtin-safety", "builtin-safe-answers"
CELLS = [(method, seed) for method in ("sft", "dualselect") for seed in (0, 1)]


@pytest.fixture(scope="module")
def grid(tmp_path_factory, tiny_run):
    """Return the folder of a grid of two methods and two seeds on the tiny model; 2 of 8 task samples are planted."""
    folder = tmp_path_factory.mktemp("real-page")
    task = [{"id": f"count-{n}", "prompt": f"count {n}?", "completion": "count on", "planted": n > 5} for n in range(8)]
    safe = [{"id": f"no-{n}", "prompt": f"no {n}?", "completion": "No."} for n in range(4)]
    for name, rows in (("task", task), ("safe", safe)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        **tiny_run,
        "task": str(folder / "task.jsonl"),
        "references": str(folder / "safe.jsonl"),
        "output_dir": str(folder / "grid"),
        "methods": ["sft", "dualselect"],
        "seeds": [0, 1],
        "task_warmup_steps": 1,
        "evaluate": {"suites": [SAFETY, PROBE], "limit": 6, "max_new_tokens": 4},
    }
    (folder / "grid.yaml").write_text(json.dumps(settings))  # JSON is YAML
    assert main(["compare", "--config", str(folder / "grid.yaml")]) == 0
    return folder / "grid"


@pytest.fixture(scope="module")
def page(grid):
    return write_report(grid, grid / "page.html").read_text(encoding="utf-8")


def cell(grid, method, seed):
    return grid / "cells" / f"{method}-seed{seed}"


def values(folder, suite, metric):
    records = json.loads((folder / "evaluation" / f"{suite}.json").read_text())["records"]
    return [record["values"][metric] for record in records]


def table_row(page, suite, title, method):
    """Return the texts of a row's cells in the table of a suite."""
    section = page[page.index('<section id="measures"') :]
    section = section[section.index(f"<h3>{suite} ") :]
    group = section[section.index(f"<span>{title}</span>") :]
    (row,) = re.findall(rf"<tr><th scope=\"row\">(?:(?!</tr>).)*?</svg>{method}</th>.*?</tr>", group, re.DOTALL)[:1]
    return [re.sub("<[^>]*>", "", found).strip() for found in re.findall(r"<td.*?</td>", row, re.DOTALL)]


def test_means_and_differences_on_the_page_are_those_of_the_records(grid, page):
    nll = {key: values(cell(grid, *key), PROBE, "safe_nll") for key in CELLS}
    title = "NLL of safe answers"
    for method in ("sft", "dualselect"):
        shown = table_row(page, PROBE, title, method)[0]
        assert shown == f"{mean(mean(nll[method, seed]) for seed in (0, 1)):.3f}"
    pairs = [
        ours - theirs for seed in (0, 1) for ours, theirs in zip(nll["dualselect", seed], nll["sft", seed], strict=True)
    ]
    difference = table_row(page, PROBE, title, "dualselect")[3].replace("\N{MINUS SIGN}", "-")
    assert difference.startswith(f"{mean(pairs):+.3f} [")
    assert not table_row(page, PROBE, title, "sft")[3]


def test_answers_are_in_the_column_of_their_model(grid, page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [model["name"] for model in data["models"]] == ["start", "sft", "dualselect"]
    files = [grid / "start" / "evaluation" / f"{SAFETY}.start.json"]
    files += [cell(grid, method, 0) / "evaluation" / f"{SAFETY}.json" for method in ("sft", "dualselect")]
    told = [{one["id"]: one["answer"] for one in json.loads(path.read_text())["records"]} for path in files]
    rows = [row for row in data["rows"] if row["suite"] == SAFETY]
    assert len(rows) == 6
    for row in rows:
        assert [answer["text"] for answer in row["answers"]] == [answers[row["id"]] for answers in told]


def test_the_page_of_a_cell_is_about_that_run_alone(grid):
    folder = cell(grid, "dualselect", 1)
    page = write_report(folder).read_text(encoding="utf-8")
    assert table_row(page, PROBE, "NLL of safe answers", "dualselect-seed1")[0] == (
        f"{mean(values(folder, PROBE, 'safe_nll')):.3f}"
    )
    assert "<h3>References chosen, by category and refresh</h3>" in page
    assert re.search(r"</svg>poison \(\d+ of \d+\)", page)  # known by their column, not by their ids
    card = write_model_card(folder, folder / "card.md").read_text(encoding="utf-8")
    assert f"| {mean(values(folder, PROBE, 'safe_nll')):.3f} |" in card


def test_nothing_is_left_out_of_a_grid_whose_weights_are_those_that_were_measured(page):
    notes = re.search(r'<ul class="notes">(.*?)</ul>', page)[1]
    assert re.findall("<li>(.*?):", notes) == ["selection logs"]
