"""`dualselect diagnose` from its settings to its figure, unbroken and killed in every stage."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from dualselect.cli.diagnose import run
from dualselect.diagnostics import bench
from dualselect.errors import ConfigError
from dualselect.files import replacing as genuine
from dualselect.runs import diagnostic
from dualselect.runs.diagnostic import SCHEMAS, read_embeddings, read_json, read_rollouts, read_table
from dualselect.selection import scan

pytestmark = pytest.mark.slow

#: A file of every stage (of scans and rollouts a later part), before whose writing the process is killed.
KILLED_AT = [
    ("references.parquet", 1),
    ("weights.safetensors", 1),
    ("part-000002.parquet", 1),
    ("embeddings-references.npy", 1),
    ("projection.json", 1),
    ("traces.parquet", 1),
    ("overlap.parquet", 1),
    ("heatmap.json", 1),
    ("rollouts.parquet", 4),
    ("reductions.parquet", 1),
]


@pytest.fixture
def config(tmp_path, values):
    """Return the YAML file of the small diagnostic with two strategies."""
    path = tmp_path / "diagnose.yaml"
    path.write_text(yaml.safe_dump(values | {"strategies": ["task-conditioned", "periodic-random"]}))
    return str(path)


@pytest.fixture
def kill(monkeypatch):
    """Return a function `(name, time)` after which the n-th writing of such a file ends the process."""

    def at(name, time):
        count = 0

        @contextmanager
        def replacing(path: Path) -> Iterator[Path]:
            nonlocal count
            count += path.name == name
            if path.name == name and count == time:
                raise KeyboardInterrupt
            with genuine(path) as draft:
                yield draft

        for module in (diagnostic, bench, scan):
            monkeypatch.setattr(module, "replacing", replacing)

    monkeypatch.setattr(scan, "_BATCHES_PER_PART", 1)
    return at


def test_a_diagnostic_that_is_killed_in_every_stage_ends_as_an_unbroken_one(config, tmp_path, kill, capsys):
    assert run(["--config", config, "--output_dir", str(tmp_path / "whole")]) == 0
    for name, time in KILLED_AT:
        kill(name, time)
        with pytest.raises(KeyboardInterrupt):
            run(["--config", config, "--output_dir", str(tmp_path / "killed")])
    kill("", 0)
    capsys.readouterr()
    assert run(["--config", config, "--output_dir", str(tmp_path / "killed")]) == 0
    assert "traces: done before" in capsys.readouterr().out
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for name in SCHEMAS:
        assert read_table(whole, name).equals(read_table(killed, name)), name
    for role in ("task", "references"):
        assert np.array_equal(read_embeddings(whole, role).vectors, read_embeddings(killed, role).vectors)
    for name in ("resources.json", "projection.json", "heatmap.json"):
        assert read_json(whole, name) == read_json(killed, name)
    assert {path.name for path in whole.iterdir()} == {path.name for path in killed.iterdir()}
    assert {f"figure.{kind}" for kind in ("pdf", "svg", "png")} <= {path.name for path in whole.iterdir()}


def test_a_changed_setting_makes_only_what_depends_on_it_again(config, tmp_path, capsys):
    output = ["--config", config, "--output_dir", str(tmp_path / "run")]
    assert run(output) == 0
    before = read_rollouts(tmp_path / "run")
    capsys.readouterr()
    assert run([*output, "--corrections", "align-ref", "--permutations", "20"]) == 0
    said = capsys.readouterr().out
    assert "traces: done before" in said
    assert "overlap: permutations changed, so it is made again" in said
    assert "rollouts: corrections changed, so it is made again" in said
    after = read_rollouts(tmp_path / "run")
    assert len(after) == len(before) == 2 * 3
    assert {one.correction for one in after} == {"", "align-ref"}


def test_a_model_that_has_changed_and_a_file_that_is_gone_are_noticed(config, tiny_model_dir, tmp_path, capsys):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    output = ["--config", config, "--start", "fresh", "--output_dir", str(tmp_path / "run")]
    output += ["--model_name_or_path", str(model)]
    assert run(output) == 0
    before = read_embeddings(tmp_path / "run", "task").vectors
    (tmp_path / "run/heatmap.json").unlink()
    capsys.readouterr()
    assert run(output) == 0
    said = capsys.readouterr().out
    assert "heatmap: heatmap.json missing, so it is made again" in said
    assert said.count("done before") == 7

    weights = load_file(model / "model.safetensors")
    save_file({name: 2 * values for name, values in weights.items()}, model / "model.safetensors", {"format": "pt"})
    assert run(output) == 0
    said = capsys.readouterr().out
    assert "resources: done before" in said
    assert "warm-up: model files changed, so it is made again" in said
    assert not np.array_equal(read_embeddings(tmp_path / "run", "task").vectors, before)


def test_a_folder_of_something_else_is_left_alone(config, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/precious").touch()
    with pytest.raises(ConfigError, match="contains no diagnostic"):
        run(["--config", config, "--output_dir", str(tmp_path / "other")])
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["precious"]
