"""The model of a stage: the one that the stream begins with, with the adapters of earlier stages merged into it.

It is a cache: it follows from the first model and the adapters alone, in their order, in fp32 and on the CPU, so that
one that was made again equals the one before bit for bit.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from dualselect.errors import library_errors
from dualselect.models.files import Weights, locate
from dualselect.models.loading import has_tokenizer, load_model, load_tokenizer

STATE_FILE = "merged.json"


def merged_model(base: str, adapters: Sequence[Path], folder: Path, resolve: Callable[[str], str] = str) -> str:
    """Return the model with adapters merged into it, made in a folder unless it is there already.

    Args:
        base: Folder or hub id of the model that the first adapter was trained on.
        adapters: Run folders in their order, each trained on the model with those before it merged in.
        folder: Place of the result.
        resolve: Function that turns a model's name into what `from_pretrained` takes.

    Returns:
        What `from_pretrained` takes: `base` without adapters, a run folder itself where it contains a whole model,
        else `folder`.

    Raises:
        ConfigError: A model or adapter could not be loaded.
    """
    whole = [number for number, adapter in enumerate(adapters) if not Weights(str(adapter), adapter).is_adapter]
    if whole:  # a run without LoRA leaves a model, and nothing of what was before it is needed
        base, adapters = str(adapters[whole[-1]]), adapters[whole[-1] + 1 :]
    if not adapters:
        return base
    start = locate(base, resolve)
    wanted = [start.hash, *(Weights(str(adapter), adapter).hash for adapter in adapters)]
    there = _state(folder)
    if there == wanted:
        return str(folder)
    if there and wanted[: len(there)] == there:
        start, adapters = Weights(str(folder), folder), adapters[len(there) - 1 :]
    _replace(folder, _merge(start, adapters, folder.with_name(f".{folder.name}.tmp")), wanted)
    return str(folder)


def _merge(start: Weights, adapters: Sequence[Path], folder: Path) -> Path:
    from peft import PeftModel

    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was interrupted
    model = load_model(start, "float32", "cpu")
    for adapter in adapters:
        with library_errors(f"{adapter}: its adapter could not be merged", "remove its folder to train it again"):
            model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    last = Weights(str(adapters[-1]), adapters[-1])
    model.save_pretrained(folder)
    load_tokenizer(last if has_tokenizer(last) else start).save_pretrained(folder)
    return folder


def _replace(folder: Path, made: Path, state: Sequence[str]) -> None:
    (made / STATE_FILE).write_text(json.dumps(list(state)) + "\n", encoding="utf-8")
    (folder / STATE_FILE).unlink(missing_ok=True)  # first, so that half a model is never taken for a whole one
    shutil.rmtree(folder, ignore_errors=True)
    made.rename(folder)


def _state(folder: Path) -> list[str]:
    """Return the hashes of the model and adapters that a merged model was made of; empty where there is none."""
    try:
        return [str(part) for part in json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []
