"""Stages that are done once: a command that is run again continues with the first one that is not done.

What a stage was made from is kept as a hash, of its own settings and of those of the stages it builds on. A stage whose
hash has changed is made again, and so are all that build on it. One whose files are gone is made again alone, since it
comes to the same.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError
from dualselect.runs.diagnostic import STAGES_FILE, read_json, write_json
from dualselect.runs.provenance import plain


@dataclass(frozen=True)
class Stage:
    """A part of a diagnostic.

    Attributes:
        name: What it is called in `stages.json`.
        run: Does it; what an interrupted call with the same settings has left may be used.
        settings: What its result depends on.
        files: The files and folders that it writes.
        after: Names of the stages that it builds on.
    """

    name: str
    run: Callable[[], object]
    settings: Mapping[str, Any]
    files: Sequence[str]
    after: Sequence[str] = ()


def open_folder(folder: Path) -> None:
    """Make the folder of a diagnostic; nothing happens if it is one already.

    Raises:
        ConfigError: It contains something else, or is a file.
    """
    if (folder / STAGES_FILE).is_file():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output_dir: {folder} is not an empty folder and contains no diagnostic; name another one")
    write_json(folder, STAGES_FILE, {})


def run_stages(folder: Path, stages: Sequence[Stage], say: Callable[[str], None] = print) -> None:
    """Run the stages that are not done, in their order.

    Args:
        folder: Folder of the diagnostic.
        stages: Stages, each after those that it builds on.
        say: Is told what is done and what is made again.

    """
    record = read_json(folder, STAGES_FILE)
    keys: dict[str, str] = {}
    for stage in stages:
        settings = plain(stage.settings)
        keys[stage.name] = _key(settings, [keys[name] for name in stage.after])
        known = record.get(stage.name, {})
        missing = [name for name in stage.files if not (folder / name).exists()]
        if known.get("key") == keys[stage.name] and known.get("done"):
            if not missing:
                say(f"{stage.name}: done before")
                continue
            say(f"{stage.name}: {', '.join(missing)} missing, so it is made again")
        elif known and known.get("key") != keys[stage.name]:
            say(f"{stage.name}: {_changes(known['settings'], settings)}, so it is made again")
            _remove(folder, stage.files)
        record[stage.name] = {"key": keys[stage.name], "done": False, "settings": settings}
        write_json(folder, STAGES_FILE, record)
        begun = time.monotonic()
        stage.run()
        seconds = round(time.monotonic() - begun, 1)
        record[stage.name] |= {"done": True, "seconds": seconds}
        write_json(folder, STAGES_FILE, record)
        say(f"{stage.name}: done in {seconds:g} s")


def _key(settings: Any, before: Sequence[str]) -> str:
    return sha256(json.dumps([settings, before], sort_keys=True).encode()).hexdigest()[:32]


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in now if name not in before or before[name] != now[name]]
    names += [name for name in before if name not in now]
    return f"{', '.join(names)} changed" if names else "what it builds on changed"


def _remove(folder: Path, files: Sequence[str]) -> None:
    for name in files:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
