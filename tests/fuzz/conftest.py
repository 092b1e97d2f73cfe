"""Commands run in this process on a file that may be broken, up to the moment in which a model would be loaded."""

import json
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from dualselect.cli import main

sys.path.insert(0, str(Path(__file__).parent))  # the modules that make the files

_MODEL_LOADERS = (
    "dualselect.experiments.train.make_trainer",
    "dualselect.experiments.score.make_trainer",
    "dualselect.experiments.probe.make_trainer",
    "dualselect.diagnostics.bench.make_trainer",
    "dualselect.continual.conflict.make_trainer",
    "dualselect.models.local.load_model",
)
# What no terminal may be sent: C0 and C1 controls but the line end and the tab, and marks that turn the direction.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class ModelLoaded(BaseException):
    """Raised where a model would be loaded: everything that the user gave has been read by then."""


class Outcome(NamedTuple):
    """What a command came to; `code` is None where it would have loaded a model."""

    code: int | None
    out: str
    err: str

    @property
    def message(self) -> str:
        """The line of the error."""
        return self.err.rstrip("\n").rpartition("\n")[2]


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ModelLoaded

    # All of them first: a module that is imported while another one's name is replaced would keep the stand-in.
    for name in _MODEL_LOADERS:
        import_module(name.rpartition(".")[0])
    for name in _MODEL_LOADERS:
        monkeypatch.setattr(name, refuse)


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with task.jsonl, safe.jsonl, probe.jsonl and test.jsonl, which share no prompts."""
    folder = tmp_path_factory.mktemp("good")
    for name in ("task", "safe", "probe", "test"):
        rows = [{"id": f"{name}{n}", "prompt": f"{name} {n}?", "completion": f"#### {n}"} for n in range(4)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs `dualselect` with arguments; any other exception passes, as a traceback would."""

    def call(*arguments: Any) -> Outcome:
        capsys.readouterr()
        code: int | None
        try:
            code = main([str(argument) for argument in arguments])
        except ModelLoaded:
            code = None
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def given(good: Path, tiny_run: dict[str, Any], tmp_path: Path) -> Callable[..., list[Any]]:
    """Return a function `(command, task, **changes) -> arguments` of a command that is fine but for its data."""

    def written(settings: dict[str, Any]) -> list[Any]:
        path = tmp_path / "given.yaml"
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return ["--config", path]

    def arguments(command: str, task: Any, **changes: Any) -> list[Any]:
        data, model = {"task": str(task)}, tiny_run["model_name_or_path"]
        if command == "evaluate":
            return ["--model", model, "--suite", "builtin-safety", "--data", f"builtin-safety={task}", *_out(tmp_path)]
        if command == "diagnose":
            sets = {"references": str(good / "safe.jsonl"), "probe": str(good / "probe.jsonl"), "batch_size": 1}
            names = ("model_name_or_path", "lora_r", "bf16", "disable_tqdm")
            return [*written(data | sets | {name: tiny_run[name] for name in names} | changes), *_out(tmp_path)]
        if command == "continual":
            stream = [{"name": "a", "test": str(good / "test.jsonl")} | data]
            changes = {"stream": stream, "methods": ["sft"], "seeds": [0]} | changes
            return [*written(tiny_run | changes), *_out(tmp_path)]
        settings = tiny_run | data | {"references": str(good / "safe.jsonl")} | changes
        if command == "compare":
            settings |= {"methods": ["sft", "dualselect"], "seeds": [0], "evaluate": {"suites": ["builtin-safety"]}}
        return [*written(settings | changes), *_out(tmp_path)]

    return arguments


def _out(folder: Path) -> list[Any]:
    return ["--output_dir", folder / "out"]


def files_below(folder: Path) -> dict[Path, bytes | None]:
    """Return everything in a folder with its content, None for a folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refused(run: Callable[..., Outcome], tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a command and checks that it refuses its input properly; returns the message."""

    def check(*arguments: Any) -> str:
        before = files_below(tmp_path)
        outcome = run(*arguments)
        assert outcome.code == 2, (outcome, arguments)
        assert outcome.message.startswith("dualselect: error: "), outcome.err
        assert outcome.err.count("dualselect: error: ") == 1
        assert not _CONTROLS.search(outcome.err + outcome.out), (outcome.err, outcome.out)
        assert re.search(r"[;:] ?\S[^;:]*$", outcome.message), f"names no cure: {outcome.message}"
        assert len(outcome.message) < 2000, f"{len(outcome.message)} characters"
        assert files_below(tmp_path) == before
        return outcome.message

    return check


@pytest.fixture
def accepted(run: Callable[..., Outcome], tmp_path: Path) -> Callable[..., Outcome]:
    """Return a function that runs a command and checks that it takes its input, and sends no control characters."""

    def check(*arguments: Any) -> Outcome:
        outcome = run(*arguments)
        assert outcome.code in (0, None), outcome.err
        assert not _CONTROLS.search(outcome.err + outcome.out), (outcome.err, outcome.out)
        return outcome

    return check
