"""A disk that is full or read-only costs the checkpoint that was being written, and SIGTERM costs nothing."""

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from dualselect.errors import OutputError
from dualselect.files import remove_drafts, replacing, writing
from dualselect.training.checkpoint import is_whole

SETTINGS = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


class At(TrainerCallback):
    """Calls a function once a step is complete."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


@pytest.fixture
def limit():
    """Return a function that limits how many bytes a file of this process may have, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size=soft: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["dualselect_state.json", "adapter_model.safetensors", "optimizer.pt"])
def test_a_full_disk_costs_one_checkpoint(make_trainer, trained_weights, tmp_path, limit, failing):
    """Each writer fails as the system makes it: Python's own, that of safetensors in Rust, that of torch in C++."""
    unbroken = make_trainer("sft", output_dir=tmp_path / "unbroken", **SETTINGS)
    unbroken.train()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "unbroken" / "checkpoint-2").iterdir()}
    written_before = {"dualselect_state.json": 100, "adapter_model.safetensors": sizes["dualselect_state.json"]}
    size = written_before.get(failing, sizes["adapter_model.safetensors"] + 100)
    assert size < sizes[failing]

    callbacks = [At(3, lambda: limit(size))]
    run = make_trainer("sft", output_dir=tmp_path / "run", callbacks=callbacks, **SETTINGS, logging_strategy="no")
    with pytest.raises(OutputError, match=r"could not be written \(.*\); free space there") as raised:
        run.train()
    limit()
    assert "checkpoint-4" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in run.run_folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert is_whole(run.run_folder / "checkpoint-2") is None
    resumed = make_trainer("sft", output_dir=tmp_path / "run", **SETTINGS, logging_strategy="no")
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(trained_weights(resumed), trained_weights(unbroken))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, number):
    path = tmp_path / "file.json"
    path.write_text("before")
    message = rf"file\.json: could not be written \({os.strerror(number)}\)"
    with pytest.raises(OutputError, match=message), replacing(path) as draft:  # noqa: PT012
        draft.write_text("half")
        raise OSError(number, os.strerror(number))
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file.json", "before")]


def test_a_device_that_is_full_is_named():
    place = Path("/dev/full")
    with pytest.raises(OutputError, match="/dev/full: could not be written"), writing(place), place.open("w") as file:
        file.write("x")


def test_other_errors_pass(tmp_path):
    for error in (OSError(errno.ENOENT, "no such file"), ValueError("a mistake"), RuntimeError("another")):
        with pytest.raises(type(error)) as raised, replacing(tmp_path / "file"):
            raise error
        assert raised.value is error


def test_two_processes_may_write_the_same_file_at_the_same_time(tmp_path):
    with replacing(tmp_path / "shared") as slower, replacing(tmp_path / "shared") as faster:
        assert slower.parent == faster.parent == tmp_path
        slower.write_text("one")
        faster.write_text("other")
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]
    assert (tmp_path / "shared").read_text() == "one"  # whose writer was the last to end


def test_drafts_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "below" / "d").mkdir(parents=True)
    for name in (".a.json.tmp", "below/.b.parquet.tmp", "a.json", "below/c.tmp", ".hidden", "below/d/.e.tmp"):
        (tmp_path / name).write_text("x")
    remove_drafts(tmp_path)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"a.json", "below/c.tmp", ".hidden", "below/d/.e.tmp"}


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_is_named(make_trainer, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    run = make_trainer("sft", **SETTINGS, callbacks=[At(3, lambda: monkeypatch.setattr("os.replace", refuse))])
    with pytest.raises(OutputError, match=r"checkpoint-4.* could not be written \(Read-only file system\)"):
        run.train()
    assert [path.name for path in run.run_folder.glob("checkpoint-*")] == ["checkpoint-2"]


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
@pytest.mark.parametrize("save_strategy", ["steps", "no"])
def test_sigterm_leaves_a_checkpoint_and_says_how_to_continue(
    make_trainer, trained_weights, tmp_path, capsys, save_strategy
):
    settings = SETTINGS | {"save_strategy": save_strategy}
    unbroken = make_trainer(output_dir=tmp_path / "unbroken", **settings)
    unbroken.train()
    run = make_trainer(output_dir=tmp_path / "run", callbacks=[At(3, terminate)], **settings)
    with pytest.raises(SystemExit) as ended:
        run.train()
    assert ended.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    said = capsys.readouterr().err.splitlines()[-1]
    assert "stopped by SIGTERM after step 3 of 6" in said
    assert "--resume" in said
    assert is_whole(run.run_folder / "checkpoint-3") is None
    resumed = make_trainer(output_dir=tmp_path / "run", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(trained_weights(resumed), trained_weights(unbroken))


@pytest.mark.slow
def test_sigterm_in_the_last_step_changes_nothing(make_trainer):
    run = make_trainer("sft", callbacks=[At(6, terminate)], **SETTINGS)
    run.train()
    assert run.state.global_step == 6


@pytest.mark.slow
def test_a_handler_of_somebody_else_is_left_alone(make_trainer):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        make_trainer("sft", callbacks=[At(3, terminate)], **SETTINGS).train()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [1]
