"""Targets whose weights are on this machine: whole models, and adapters that share one base in memory."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from typing import Any

from dualselect.devices import computes_bfloat16
from dualselect.errors import ConfigError
from dualselect.models.adapters import AdapterView, SharedBase
from dualselect.models.answering import answer_all, identity_of
from dualselect.models.base import GenerationSettings, LocalTarget
from dualselect.models.cache import AnswerCache
from dualselect.models.files import Weights, locate
from dualselect.models.generation import OnBatch, Prompt, complete, encode_rendered, render_prompt
from dualselect.models.loading import (
    default_device,
    free_memory,
    has_tokenizer,
    load_model,
    load_tokenizer,
    pin_date,
    tokenizer_hash,
)
from dualselect.models.thoughts import Answer, check_thinking

_DTYPES = ("auto", "bfloat16", "float16", "float32")
# Initialisations that leave the base's own weights as they are; others, such as pissa, change them.
_HARMLESS_INITS = (None, True, False, "gaussian", "orthogonal", "eva")


class LoadedTarget(LocalTarget):
    """A model in memory, with or without an adapter.

    `model` stays correct whatever other adapters do on the same base. Prompts given as text are one user turn.
    """

    def __init__(
        self,
        name: str,
        identity: dict[str, Any],
        model: Any,
        tokenizer: Any,
        *,
        cache: AnswerCache | None = None,
        start: Callable[[], "LoadedTarget"] | None = None,
    ) -> None:
        """Make a target of a model; `start` opens the model that it was tuned from."""
        self.name, self.identity = name, identity
        self.model, self.tokenizer, self.cache = model, tokenizer, cache
        self._start = start

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, *, description: str = "generating"
    ) -> list[Answer]:
        """Return one answer per prompt, in order, with its thoughts if the model thinks; shows a progress bar.

        Raises:
            ConfigError: The chat template refuses a prompt, or opens a thought although thinking is off.
        """
        check_thinking(self.name, self.tokenizer, settings.thinking)
        names = ("max_new_tokens", "batch_size", "temperature", "top_p", "seed")
        options = {name: value for name, value in asdict(settings).items() if name in names}

        def ask(rendered: list[str], on_batch: OnBatch) -> None:
            encoded = [encode_rendered(self.tokenizer, text) for text in rendered]
            complete(self.model, self.tokenizer, encoded, **options, on_batch=on_batch, description=description)

        render = partial(render_prompt, self.tokenizer, thinking=settings.thinking)
        return answer_all(self.identity, prompts, settings, self.cache, ask, render=render)

    def start(self) -> "LoadedTarget | None":
        """Return the model that an adapter was trained on, in the same memory; None for a whole model."""
        return self._start() if self._start else None


class LocalModels:
    """The models in memory: a base is loaded once, for any number of adapters."""

    def __init__(
        self,
        *,
        dtype: str | None = None,
        device: str | None = None,
        resolve: Callable[[str], str] = str,
        cache: AnswerCache | None = None,
    ) -> None:
        """Make an empty collection; no model is loaded yet.

        Args:
            dtype: Type of the weights (`bfloat16`, `float16` or `float32`); None takes that of the checkpoint.
            device: Device such as `cuda:0`; None takes the accelerator where there is one, else the CPU.
            resolve: Function from names to folders, where it knows better than the hub.
            cache: Cache of answers, for all targets.
        """
        self.resolve, self.cache = resolve, cache
        self.moment = datetime.now()  # the date that chat templates write, however long the evaluation takes
        self._dtype, self._device = dtype, device
        self._bases: dict[tuple[str, ...], list[SharedBase]] = {}

    def open(self, name: str, *, dtype: str | None = None, device: str | None = None) -> LoadedTarget:
        """Return a run folder, adapter folder, model folder or hub id as a target.

        Args:
            name: Folder or hub id.
            dtype: Type of the weights, if not that of all models; `auto` is float32 on a CPU that emulates bfloat16.
            device: Device, if not that of all models.

        Raises:
            ConfigError: The model does not exist, could not be loaded, or does not fit its base.
        """
        dtype, device = dtype or self._dtype or "auto", device or self._device or default_device()
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype is '{dtype}'; choose one of {', '.join(_DTYPES)}")
        if dtype == "auto" and not computes_bfloat16(device):
            dtype = "float32"  # a checkpoint in bfloat16 would be emulated, which takes ten times as long
        found = locate(name, self.resolve)
        return self._adapter(found, dtype, device) if found.is_adapter else self._whole(found, dtype, device)

    def clear(self) -> None:
        """Release all models; targets that are still in use keep theirs."""
        self._bases.clear()
        free_memory()

    def _whole(self, weights: Weights, dtype: str, device: str, tokenizer: Any = None) -> LoadedTarget:
        shared = self._base(weights, dtype, device, kind=None)
        tokenizer = tokenizer or pin_date(load_tokenizer(weights), self.moment)
        identity = _identity(weights.name, "model", shared.model, tokenizer, weights=weights.hash)
        identity["revision"] = weights.revision
        return LoadedTarget(weights.name, identity, AdapterView(shared, None), tokenizer, cache=self.cache)

    def _adapter(self, adapter: Weights, dtype: str, device: str) -> LoadedTarget:
        config = adapter.adapter_config()
        base = locate_base(adapter, config, self.resolve)
        alters = alters_base(config)
        shared = self._base(
            base, dtype, device, kind=str(config.get("peft_type")), alone=adapter.hash if alters else ""
        )
        worn = shared.add(adapter)
        tokenizer = pin_date(load_tokenizer(adapter if has_tokenizer(adapter) else base), self.moment)
        identity = _identity(adapter.name, "adapter", shared.model, tokenizer, weights=base.hash, adapter=adapter.hash)
        identity.update(base=base.name, revision=base.revision)
        return LoadedTarget(
            adapter.name,
            identity,
            AdapterView(shared, worn),
            tokenizer,
            cache=self.cache,
            start=lambda: self._whole(base, dtype, device, tokenizer),
        )

    def _base(self, weights: Weights, dtype: str, device: str, kind: str | None, alone: str = "") -> SharedBase:
        """Return the model in memory that adapters of a kind can be put on; any model where `kind` is None."""
        key = (str(weights.folder.resolve()), weights.hash, dtype, device, alone)
        for shared in self._bases.setdefault(key, []):
            if kind is None or shared.kind in (None, kind):
                return shared
        shared = SharedBase(load_model(weights, dtype, device))
        self._bases[key].append(shared)
        return shared


def locate_base(adapter: Weights, config: dict[str, Any], resolve: Callable[[str], str]) -> Weights:
    """Return the files of the base model of an adapter.

    Raises:
        ConfigError: The base model could not be loaded, or is an adapter itself.
    """
    name = config["base_model_name_or_path"]
    try:
        base = locate(name, resolve, revision=config.get("revision"))
    except ConfigError as error:
        raise ConfigError(f"{adapter.name}: its base model could not be loaded: {error}") from error
    if base.is_adapter:
        raise ConfigError(
            f"{adapter.name}: its base model {name} is an adapter itself; merge that into its own base, save the "
            "result, and name it in adapter_config.json"
        )
    return base


def alters_base(config: dict[str, Any]) -> bool:
    """Return whether loading an adapter changes the base's own weights, so that no other adapter can share it."""
    return config.get("init_lora_weights") not in _HARMLESS_INITS or config.get("bias", "none") not in (None, "none")


def _identity(name: str, kind: str, model: Any, tokenizer: Any, **parts: str) -> dict[str, Any]:
    parts |= {"dtype": str(model.dtype).removeprefix("torch."), "tokenizer": tokenizer_hash(tokenizer)}
    return identity_of(name, kind, parts)
