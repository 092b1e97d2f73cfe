"""The example runs as it is, on a tiny model and for few steps."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dualselect.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_the_stream_trains_measures_and_gathers(tmp_path, monkeypatch, tiny_model_dir):
    monkeypatch.chdir(ROOT)
    output = tmp_path / "stream"
    flags = ["--methods", "sft", "dualselect", "--seeds", "0", "--model", str(tiny_model_dir), "--max_steps", "3"]
    arguments = ["--config", "examples/continual.yaml", *flags, "--output_dir", str(output), "--disable_tqdm"]
    assert main(["continual", *arguments]) == 0
    rows = pq.read_table(output / "matrix.parquet").to_pylist()
    assert {row["method"] for row in rows} == {"start", "sft", "dualselect"}
    last = {row["task"] for row in rows if row["stage"] == 3 and row["kind"] != "single"}
    assert last == {"sentiment", "topic", "arithmetic", "builtin-safety", "safe-answers", "neutral-text"}
    measures = pq.read_table(output / "measures.parquet").to_pylist()
    assert {"average", "backward", "forward", "forgetting"} <= {row["measure"] for row in measures}
    assert "dualselect" in (output / "table.md").read_text()
