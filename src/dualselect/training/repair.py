"""Repairs: what a method does after training, applied to the model of a finished run."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset
from peft import PeftModel
from trl import SFTTrainer

from dualselect import methods
from dualselect.data import identify
from dualselect.errors import ConfigError, library_errors
from dualselect.files import replacing
from dualselect.gradients import Watch, trainable_parameters
from dualselect.methods import Method
from dualselect.models.files import Weights, locate
from dualselect.models.loading import default_device, has_tokenizer, load_model, load_tokenizer
from dualselect.models.local import locate_base
from dualselect.runs import write_samples
from dualselect.runs.provenance import CONFIG_FILE, write_config, write_provenance
from dualselect.runs.samples import FILE as SAMPLES_FILE
from dualselect.selection import Pool
from dualselect.training.config import DualSelectConfig
from dualselect.training.data import make_pool
from dualselect.training.record import RunRecord
from dualselect.training.run import TrainingRun

# Settings of the run that say how its samples became tokens and batches; the pools must be made in the same way.
_TOKENISATION = (
    "max_length",
    "truncation_mode",
    "completion_only_loss",
    "assistant_only_loss",
    "dataset_text_field",
    "dataset_kwargs",
    "per_device_train_batch_size",
    "scan_tokens",
    "reference_answer_tokens",
)


def repair(
    model: str,
    method: Method,
    pools: Mapping[str, Dataset],
    output_dir: Path,
    *,
    sources: Mapping[str, str] | None = None,
    resolve: Callable[[str], str] = str,
) -> None:
    """Apply a method's last moment to a finished model and save the result as a run folder of its own.

    Args:
        model: Run folder, adapter, model folder or hub id; it stays as it is.
        method: Method that acts in `finish`.
        pools: Data sets that the method needs, by name, in TRL's forms.
        output_dir: New or empty folder for the repaired model.
        sources: Sources of the pools, for `config.yaml`.
        resolve: Function from a model's name to a folder, where it knows better than the hub.

    Raises:
        ConfigError: The method does not act after training, lacks a pool, the model could not be loaded, or the output
            folder is not empty.
        DataError: No sample of a pool has a supervised token.
    """
    check_repair(method, pools, output_dir)
    weights = locate(model, resolve)
    loaded, tokenizer = _open(weights, resolve)
    settings = _settings_of(weights.folder)
    record = RunRecord(output_dir)
    run = TrainingRun(
        seed=int(settings.get("seed", 0)),
        model=loaded,
        tokenizer=tokenizer,
        params=trainable_parameters(loaded),
        pools=_pools(loaded, tokenizer, method, pools, settings, output_dir),
        record=record,
    )
    write_provenance(output_dir, loaded, pools, {"seed": run.seed})
    method.finish(run)
    record.flush()
    loaded.save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    _write_samples(output_dir, weights.folder, pools)
    # Last, since it makes the folder a run folder.
    write_config(output_dir, _description(weights, method, sources or {}, settings))


def check_repair(method: Method, pools: Mapping[str, Any], output_dir: Path) -> None:
    """Refuse a repair that cannot be made, before anything is loaded.

    Raises:
        ConfigError: The method does not act after training, lacks a pool, or the output folder is not empty.
    """
    if type(method).finish is Method.finish:
        able = " or ".join(name for name, other in methods.available().items() if other.finish is not Method.finish)
        raise ConfigError(f"method '{method.name}' does nothing after training, so it cannot repair; choose {able}")
    for name in method.pools:
        if name not in pools:
            raise ConfigError(f"method '{method.name}' needs {name}: give --pools {name}=SOURCE")
    if output_dir.is_file() or (output_dir.is_dir() and any(output_dir.iterdir())):
        raise ConfigError(f"output_dir: {output_dir} is not empty and is not overwritten; name another folder")


def _open(weights: Weights, resolve: Callable[[str], str]) -> tuple[Any, Any]:
    """Return a model whose weights can be edited in the form in which they were trained, and its tokenizer."""
    if not weights.is_adapter:
        return load_model(weights, "auto", default_device()), load_tokenizer(weights)
    base = locate_base(weights, weights.adapter_config(), resolve)
    with library_errors(f"{weights.name}: the adapter does not fit its base model", "check adapter_config.json"):
        model = PeftModel.from_pretrained(
            load_model(base, "auto", default_device()), str(weights.folder), is_trainable=True
        )
    return model.eval(), load_tokenizer(weights if has_tokenizer(weights) else base)


def _settings_of(folder: Path) -> dict[str, Any]:
    """Return the settings of the run that a model comes from; empty where they are unknown."""
    path = folder / CONFIG_FILE
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: could not be read ({error}); restore it, or remove it to use defaults") from error
    return settings if isinstance(settings, dict) else {}


def _pools(
    model: Any,
    tokenizer: Any,
    method: Method,
    pools: Mapping[str, Dataset],
    settings: Mapping[str, Any],
    output_dir: Path,
) -> dict[str, Pool]:
    """Return the pools, tokenised by the trainer that the run used, with its settings."""
    if not method.pools:
        return {}
    plain: dict[str, Any] = {"report_to": "none", "bf16": False, "gradient_checkpointing": False}
    args = DualSelectConfig(output_dir=str(output_dir), **plain, **_tokenisation(settings))
    first, _ = identify(pools[method.pools[0]])
    with library_errors("the pools cannot be prepared", "change the setting or file that this names"):
        trainer = SFTTrainer(model=model, args=args, train_dataset=first, processing_class=tokenizer)
    params = trainable_parameters(model)
    watch = Watch(model, params)
    return {name: make_pool(trainer, name, pools[name], watch, params) for name in method.pools}


def _tokenisation(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in _TOKENISATION if name in settings}


def _write_samples(output_dir: Path, source: Path, pools: Mapping[str, Dataset]) -> None:
    """Write what the model was trained on and repaired with, unless the former is unknown."""
    if not (source / SAMPLES_FILE).is_file():
        return
    write_samples(output_dir, pools, {name: identify(dataset)[1] for name, dataset in pools.items()})
    parts = [pq.read_table(folder / SAMPLES_FILE) for folder in (source, output_dir)]
    with replacing(output_dir / SAMPLES_FILE) as draft:
        pq.write_table(pa.concat_tables(parts), draft, compression="zstd")


def _description(
    weights: Weights, method: Method, sources: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    base = weights.adapter_config()["base_model_name_or_path"] if weights.is_adapter else weights.name
    return {
        "repaired": weights.name,
        "repaired_sha256": weights.hash,
        "model_name_or_path": settings.get("model_name_or_path", base),
        "seed": settings.get("seed", 0),
        **_tokenisation(settings),
        "method": method.name,
        **asdict(method),
        "pools": dict(sources),
        "source": dict(settings),
    }
