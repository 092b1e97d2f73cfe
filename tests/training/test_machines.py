"""Two processes that share no folder continue from a checkpoint of the main one's, and end as an unbroken run does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dualselect.training import checkpoint_transfer
from dualselect.training.checkpoint import MANIFEST

_SCRIPT = Path(__file__).with_name("distributed_run.py")
# Dropout, so that random states count, and each process has its own.
_SETTINGS = {"max_steps": 4, "lora_dropout": 0.1, "save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module")
def launched(tmp_path_factory, tiny_model_dir, command):
    """Return the folder of all runs, which one launch makes."""
    folder = tmp_path_factory.mktemp("machines")

    def run(output_dir, *flags, **more):
        return {"command": command(folder, tiny_model_dir, output_dir, *flags, **_SETTINGS)} | more

    named = ["--resume_from_checkpoint", "out/checkpoint-2"]
    runs = {
        "together": run(folder / "together" / "out"),
        "apart": run("out", machine="apart"),
        # Named, where the other process has nothing of that name; then the last one.
        "named": run("again", *named, machine="apart"),
        "last": run("again", "--resume", machine="apart"),
    }
    (folder / "runs.json").write_text(json.dumps(runs))
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(_SCRIPT), str(tiny_model_dir), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    errors = [error.read_text() for error in folder.rglob("error-*.txt")]
    assert not errors, errors[0]
    return folder


@pytest.mark.slow
def test_runs_that_continue_end_as_the_unbroken_one(launched):
    expected = load_file(launched / "together" / "out" / "adapter_model.safetensors")
    for name in ("out", "again"):
        found = load_file(launched / "apart" / "0" / name / "adapter_model.safetensors")
        assert found.keys() == expected.keys()
        assert all(torch.equal(values, expected[key]) for key, values in found.items()), name


@pytest.mark.slow
def test_the_main_process_has_the_whole_checkpoint_and_the_others_nothing_but_what_was_sent(launched):
    main, other = launched / "apart" / "0", launched / "apart" / "1"
    states = [main / "out" / "checkpoint-2" / f"rng_state_{number}.pth" for number in range(2)]
    assert states[0].read_bytes() != states[1].read_bytes()
    assert not list(main.rglob("*.tmp"))
    assert not list(other.rglob("*.tmp"))
    # Of what the other process wrote itself while it trained nothing is left; `last` asked for the second one.
    assert sorted(path.name for path in other.rglob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    for sent in (other / "out" / "checkpoint-2", other / "again" / "checkpoint-4"):
        origin = main / sent.relative_to(other)
        files = {path.name: path.read_bytes() for path in origin.iterdir()}
        assert MANIFEST in files
        assert {path.name: path.read_bytes() for path in sent.iterdir()} == files


def test_a_checkpoint_is_the_same_by_its_files_and_their_hashes(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / MANIFEST).write_text('{"files": {}}')
        (tmp_path / name / "below" / "weights").write_bytes(b"123")
    listing = checkpoint_transfer._listing
    assert listing(tmp_path / "one") == listing(tmp_path / "other") != listing(tmp_path / "missing")
    (tmp_path / "other" / MANIFEST).write_text('{"files": {"weights": 1}}')
    assert listing(tmp_path / "one") != listing(tmp_path / "other")


@pytest.mark.parametrize("size", [0, 1, 9, 10, 25])
def test_a_file_is_sent_in_pieces(tmp_path, monkeypatch, size):
    """Received by a process of its own kind: what the main one reads is what the other appends."""
    monkeypatch.setattr(checkpoint_transfer, "_PIECE", 10)
    (tmp_path / "file").write_bytes(bytes(range(size)))
    pieces = list(checkpoint_transfer._pieces(tmp_path / "file", size))
    assert len(pieces) == max(1, -(-size // 10))
    for piece in pieces:
        assert checkpoint_transfer._append(tmp_path / "below" / "copy", piece) is None
    assert (tmp_path / "below" / "copy").read_bytes() == bytes(range(size))
