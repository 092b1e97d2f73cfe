"""`dualselect score` from files to scores, table and page, and training on what a selector scored highest."""

import json

import pyarrow.parquet as pq
import pytest

from dualselect.runs.scores import ScoreTable

pytestmark = pytest.mark.slow


@pytest.fixture
def scores(dualselect, config, data):
    """Return the folder of a finished `dualselect score`, and what it showed."""
    rows = [json.loads(line) for line in (data / "task.jsonl").read_text().splitlines()]
    rows[3]["completion"] = "<script>alert(1)</script> " * 3  # no other sample is like it
    (data / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ["dualselect,less", "moderate-g", "dsir,gist"]
    shown = dualselect(
        "score", data / "task.jsonl", "--config", config, "--selectors", *names, "--top", "4", "--output_dir",
        data / "scores", "--selector_options", "less.sketch_size=64", "moderate-g.loss-trim=0",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    return data / "scores", shown.out


def test_scores_have_a_file_a_table_and_a_page(scores):
    folder, shown = scores
    names = pq.read_schema(folder / "scores.parquet").names
    assert names[:6] == ["id", "dualselect", "less", "moderate-g", "dsir", "gist"]
    own = {"dualselect.cosine", "less.influence", "dsir.log_weight", "gist.cosine", "gist.norm"}
    assert {"loss", "tokens", "norm"} | own == set(names[6:])
    table = ScoreTable.read(folder / "scores.parquet")
    assert table.ids == [f"count{number}" for number in range(16)]
    assert table.about["options"]["less"]["sketch_size"] == 64
    lowest = table.ids[table.scores["less"].argmin()]
    under = shown[shown.index("lowest scores by less") :].splitlines()
    assert under[2].split()[0] == lowest
    page = (folder / "scores.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/", "")
    assert {path.name for path in folder.iterdir()} <= {"scores.parquet", "scores.html", "nested"}


def test_training_keeps_the_samples_of_the_highest_scores(dualselect, config, data, scores):
    folder, _ = scores
    table = ScoreTable.read(folder / "scores.parquet")
    budget, expected = 0.5 * table.tokens.sum(), set()
    for row in (-table.scores["less"]).argsort(kind="stable"):
        if sum(table.tokens[table.ids.index(name)] for name in expected) >= budget:
            break
        expected.add(table.ids[row])
    shown = dualselect(
        "train", "--config", config, "--method", "sft", "--keep", f"{folder / 'scores.parquet'}:less", "--fraction", 0.5
    )
    assert shown.code == 0, shown.err
    rows = pq.read_table(data / "run" / "samples.parquet").to_pylist()
    assert {row["id"] for row in rows if row["role"] == "task"} == expected
    assert 0 < len(expected) < 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--selectors", "les"], "unknown selector 'les'; did you mean 'less'"),
        (["--selectors", "sft"], "method 'sft' does not score samples before training"),
        (["--selectors", "sqsd"], "sqsd needs harmful: give --pools harmful=SOURCE"),
        (["--selectors", "less", "--selector_options", "less.size=3"], "'less' has no option 'size'"),
        (["--selectors", "less", "--selector_options", "less.sketch_size=x"], "selector_options"),
        (["--selectors", "less", "--selector_options", "less.warmup_epochs=2"], "give it as --warmup_epochs"),
        (["--selectors", "less,less"], "give at least one, each once"),
    ],
)
def test_what_cannot_be_scored_is_said_in_one_line(dualselect, config, arguments, message):
    shown = dualselect("score", "--config", config, *arguments)
    assert shown.code == 2
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_what_cannot_be_kept_is_said_in_one_line(dualselect, config, data, scores):
    folder, _ = scores
    file = folder / "scores.parquet"
    (data / "other.jsonl").write_text('{"id": "x", "prompt": "where?", "completion": "there"}\n')
    for arguments, message in (
        (["--keep", "less"], "keep: 'less' is not FILE:SELECTOR"),
        (["--keep", f"{file}:less", "--fraction", 0], "fraction is 0"),
        (["--keep", f"{file}:les"], "the scores have no selector 'les'; did you mean 'less'"),
        (["--keep", f"{data / 'nothing'}:less"], "could not be read"),
        (["--keep", f"{data / 'task.jsonl'}:less"], "could not be read"),
        (["--keep", f"{file}:less", "--task", data / "other.jsonl"], "has no score by 'less' of any of the task's 1"),
    ):
        shown = dualselect("train", "--config", config, *arguments)
        assert shown.code == 2
        assert message in shown.err
        assert shown.err.count("\n") == 1
    shown = dualselect("score", "--config", config, "--output_dir", folder)
    assert "is there already; remove it, or name another folder" in shown.err


def test_help_shows_the_selectors_flags(dualselect):
    shown = dualselect("score", "--help")
    assert shown.code == 0
    assert {"--selectors", "--selector_options", "--warmup_fraction", "--top"} <= set(
        shown.out.replace(",", " ").split()
    )
