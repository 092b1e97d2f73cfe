"""The identity that a run that continues from a checkpoint must share with the run that wrote it.

Everything that can change the weights is compared, by content where there is any: a continued run equals an unbroken
one bit for bit. Every field of the settings counts unless `MAY_CHANGE` lists it, so a new field is compared too.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from typing import Any

from dualselect.errors import ResumeError
from dualselect.methods import Method
from dualselect.runs.provenance import plain
from dualselect.training.config import DualSelectConfig

# Settings that may differ, since they change what is logged, saved or measured, or the machine, but not what is
# learned (a smaller `window_memory` or `scan_tokens` changes the rounding of sums, as another machine does).
MAY_CHANGE = frozenset(
    # Where results go, and what is logged.
    "output_dir run_name project report_to trackio_space_id trackio_bucket_id trackio_static_space_id disable_tqdm "  # noqa: SIM905
    "logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_level log_level_replica "
    "log_on_each_node include_num_input_tokens_seen skip_memory_metrics debug do_train do_eval do_predict "
    "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision "
    # When checkpoints are saved and held-out sets are evaluated.
    "save_strategy save_steps save_total_limit save_only_model save_on_each_node enable_jit_checkpoint "
    "resume_from_checkpoint eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size "
    "prediction_loss_only eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics "
    "batch_eval_metrics bf16_full_eval fp16_full_eval eval_packing "
    # The machine.
    "dataset_num_proc dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
    "dataloader_prefetch_factor dataloader_multiprocessing_context use_cpu local_rank ddp_backend ddp_timeout "
    "torch_empty_cache_steps window_memory scan_tokens".split()
)
_ELSEWHERE = frozenset({"method", "method_options"})
# Keys of an adapter's configuration about its environment; the hash of the weights says which model it is on.
_NOT_OF_THE_ADAPTER = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"}
)
_SHOWN = 3  # differing settings that a message names


def identity_of(
    args: DualSelectConfig,
    method: Method,
    adapter: Mapping[str, Mapping[str, Any]] | None,
    weights: str,
    data: Mapping[str, str],
    processes: int,
    chat_template: Any = None,
    shards: bool = False,
) -> dict[str, Any]:
    """Return what a run is made from, as a flat mapping of JSON values.

    The length of a run is part of it: schedules and methods depend on what remains, so a longer run is
    another one from its first step.

    Args:
        args: Settings of the run.
        method: Method with its options.
        adapter: Configurations of the adapters, from `PeftConfig.to_dict`, by name; None for full fine-tuning.
        weights: Hash of the weights before the first update, from `weights_hash`.
        data: Hash of the content of every set that is trained on, by role.
        processes: Number of processes.
        chat_template: Chat template of the tokenizer, text or a table of texts by name.
        shards: Whether the processes share what is trained, so that checkpoints have other files.
    """
    left_out = MAY_CHANGE | _ELSEWHERE
    settings = {option.name: getattr(args, option.name) for option in fields(args) if option.name not in left_out}
    identity = {
        "method": method.name,
        **method.identity(),
        "starting weights": weights,
        **{f"{role} data": digest for role, digest in data.items()},
        "adapter": sorted(adapter) if adapter else None,
        **_adapter_options(adapter or {}),
        **settings,
        "processes": processes,
        "sharding of what is trained": shards or None,
        "chat template": None if chat_template is None else sha256(json.dumps(chat_template).encode()).hexdigest(),
    }
    values: dict[str, Any] = json.loads(json.dumps(plain(identity)))
    return values


def _adapter_options(adapters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{option} of adapter {name}": value
        for name, options in adapters.items()
        for option, value in options.items()
        if option not in _NOT_OF_THE_ADAPTER
    }


def compare(saved: Mapping[str, Any], current: Mapping[str, Any], place: str = "the checkpoint") -> None:
    """Refuse to continue a run from a checkpoint of another.

    Args:
        saved: Identity in the checkpoint.
        current: Identity of the run that would continue.
        place: Name of the checkpoint in the message.

    Raises:
        ResumeError: The identities differ; the message gives both values.
    """
    # A setting that only one version of a library knows equals None where it is unknown.
    names = dict.fromkeys([*current, *saved])
    differing = [name for name in names if saved.get(name) != current.get(name)]
    if not differing:
        return
    if "method" in differing:  # whose options necessarily differ
        differing = ["method"]
    shown = [f"{name} (there: {_short(saved.get(name))}, here: {_short(current.get(name))})" for name in differing]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    raise ResumeError(
        f"{place} was written by a run with another {', '.join(shown[:_SHOWN])}{more}: continue with the same, or "
        "start in a new output_dir"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:20]}...{text[-10:]}"
