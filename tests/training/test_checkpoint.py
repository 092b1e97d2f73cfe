"""A checkpoint that is not whole is never continued from: what is missing, short or altered is named."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dualselect.errors import ResumeError
from dualselect.gradients import Direction
from dualselect.methods import Method
from dualselect.training.checkpoint import (
    MANIFEST,
    check_resumable,
    check_whole,
    is_whole,
    last_whole_checkpoint,
    load_state,
    save_state,
    seal,
)

IDENTITY = {"method": "remember", "seed": 3}


@dataclass
class Remember(Method):
    """Keeps one direction and one number."""

    name: ClassVar[str] = "remember"

    kept: Any = field(default=None, compare=False)
    count: int = 0

    def state_dict(self):
        return {"seen": self.kept}, {"count": self.count}

    def load_state_dict(self, directions, values):
        self.kept, self.count = directions["seen"], values["count"]


@pytest.fixture
def params():
    generator = torch.Generator().manual_seed(5)
    return {name: nn.Parameter(torch.randn(2, 3, generator=generator)) for name in ("a", "b")}


@pytest.fixture
def make_checkpoint(tmp_path, params):
    """Return a function that writes the checkpoint of a step, with all files that a run needs."""

    def make(step: int, *, processes: int = 1, sealed: bool = True):
        folder = tmp_path / f"checkpoint-{step}"
        method = Remember(count=7)
        method.kept = Direction.from_grads(_with_grads(params))
        save_state(folder, method, IDENTITY, {"num_tokens": 11})
        save_file({"w": torch.arange(100.0)}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}")
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.save({"values": torch.arange(100.0)}, folder / name)
        ranks = [""] if processes == 1 else [f"_{number}" for number in range(processes)]
        for suffix in ranks:
            torch.save({"cpu": torch.arange(10)}, folder / f"rng_state{suffix}.pth")
        (folder / "README.md").write_text("a card")
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        if sealed:
            seal(folder)
        return folder

    return make


def _with_grads(params):
    for number, param in enumerate(params.values()):
        param.grad = torch.full_like(param, float(number + 1))
    return params


def remove(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_manifest_lists_every_file_with_its_size_and_hash(make_checkpoint):
    folder = make_checkpoint(2)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["step"] == 2
    assert manifest["processes"] == 1
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {MANIFEST, "README.md"}
    content = (folder / "optimizer.pt").read_bytes()
    expected = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert manifest["files"]["optimizer.pt"] == expected
    assert is_whole(folder) is None
    (folder / "README.md").write_text("the user's own words")
    check_whole(folder)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "without manifest"])
@pytest.mark.parametrize("damage", [remove, empty, truncate, flip_a_bit])
@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "adapter_model.safetensors",
        "dualselect_state.json",
        "dualselect_state.safetensors",
        "trainer_state.json",
    ],
)
def test_damage_is_named(make_checkpoint, name, damage, sealed):
    folder = make_checkpoint(2, sealed=sealed)
    damage(folder / name)
    if damage is flip_a_bit and not sealed and not name.endswith((".pt", ".pth")):
        return  # without a manifest only what its own format tells is seen
    reason = is_whole(folder)
    assert reason is not None
    assert name in reason
    with pytest.raises(ResumeError, match="checkpoint-2 is not a whole checkpoint: ") as raised:
        check_whole(folder)
    assert "\n" not in str(raised.value)


def test_without_the_optimizer_the_setting_that_leaves_it_out_is_named(make_checkpoint):
    folder = make_checkpoint(2)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).unlink()
    seal(folder)  # as a run with save_only_model does
    assert "save_only_model=False" in is_whole(folder)


def test_a_broken_manifest_is_no_manifest(make_checkpoint):
    folder = make_checkpoint(2)
    for content in ("", "{", "[]", '{"step": 2}'):
        (folder / MANIFEST).write_text(content)
        assert MANIFEST in is_whole(folder)


def test_a_checkpoint_killed_just_before_its_manifest_is_whole(make_checkpoint):
    assert is_whole(make_checkpoint(2, sealed=False)) is None
    assert is_whole(make_checkpoint(4, sealed=False, processes=2), processes=2) is None


@pytest.mark.parametrize("sealed", [True, False])
def test_another_number_of_processes_is_refused(make_checkpoint, monkeypatch, sealed):
    monkeypatch.setattr("dualselect.training.checkpoint.world_size", lambda: 2)
    folder = make_checkpoint(2, processes=2, sealed=sealed)
    assert is_whole(folder, processes=2) is None
    assert "written by 2 processes" in is_whole(folder, processes=1)
    (folder / "rng_state_1.pth").unlink()
    assert is_whole(folder, processes=2) is not None


def test_the_last_whole_checkpoint_is_found_by_its_number(make_checkpoint, tmp_path, caplog):
    assert last_whole_checkpoint(tmp_path) is None
    (tmp_path / "checkpoint-best").mkdir()
    assert last_whole_checkpoint(tmp_path) is None
    for step in (2, 10, 9):
        make_checkpoint(step)
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-10"


def test_the_checkpoint_before_a_broken_one_is_taken_and_reported(make_checkpoint, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("dualselect.training.checkpoint._logger.warning", told.append)
    make_checkpoint(2)
    killed = tmp_path / "checkpoint-3"
    save_state(killed, Remember(kept=Direction.zeros({})), IDENTITY, {})
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2"
    assert len(told) == 1
    assert "checkpoint-3" in told[0]
    assert "checkpoint-2" in told[0]


def test_a_run_whose_checkpoints_are_all_broken_does_not_start_again(make_checkpoint, tmp_path):
    truncate(make_checkpoint(2) / "optimizer.pt")
    (make_checkpoint(3) / "trainer_state.json").unlink()
    with pytest.raises(ResumeError, match=r"checkpoint-3.*trainer_state\.json"):
        last_whole_checkpoint(tmp_path)


def test_the_state_comes_back_as_it_was(make_checkpoint, params):
    folder = make_checkpoint(2)
    method = Remember()
    assert load_state(folder, method, IDENTITY, params) == {"num_tokens": 11}
    assert method.count == 7
    for number, view in enumerate(method.kept.state_dict().values()):
        assert torch.equal(view, torch.full((2, 3), float(number + 1)))


def test_the_state_of_another_run_is_refused_before_anything_is_restored(make_checkpoint, params):
    folder = make_checkpoint(2)
    method = Remember()
    for refuse in (
        lambda identity: load_state(folder, method, identity, params),
        lambda identity: check_resumable(folder, identity),
    ):
        with pytest.raises(ResumeError, match=r"checkpoint-2 .*another seed \(there: 3, here: 4\)"):
            refuse(IDENTITY | {"seed": 4})
    assert method.count == 0
    check_resumable(folder, IDENTITY)


def test_directions_of_other_parameters_are_refused(make_checkpoint, params):
    folder = make_checkpoint(2)
    with pytest.raises(ResumeError, match="another model or adapter"):
        load_state(folder, Remember(), IDENTITY, {"a": params["a"]})
