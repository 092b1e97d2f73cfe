"""One base model in memory, and any number of adapters that take turns on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dualselect.errors import ConfigError, one_line
from dualselect.models.files import Weights


class SharedBase:
    """A base model with the adapters that were loaded onto it.

    Attributes:
        model: Base model.
        kind: Type of its adapters, such as `LORA`; None before the first. Types cannot be mixed.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.kind: str | None = None
        self._peft: Any = None
        self._names: dict[Path, str] = {}

    def add(self, adapter: Weights) -> str:
        """Put an adapter on the base, unless it is there already, and return its name there.

        Raises:
            ConfigError: The adapter does not fit the base.
        """
        from safetensors import SafetensorError

        place = adapter.folder.resolve()
        if place not in self._names:
            name = f"adapter{len(self._names)}"
            try:
                self._load(adapter.folder, name)
            except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
                self._remove(name)
                cause = one_line(error)[:300]
                raise ConfigError(
                    f"{adapter.name}: the adapter does not fit its base model ({cause}); check "
                    "base_model_name_or_path in its adapter_config.json"
                ) from error
            self._names[place] = name
        return self._names[place]

    @contextmanager
    def switched(self, name: str | None) -> Iterator[Any]:
        """Yield the model with this adapter on and all others off; with all off for None."""
        if self._peft is None:
            yield self.model
        elif name is None:
            with self._peft.disable_adapter():
                yield self.model
        else:
            self._peft.set_adapter(name, inference_mode=True)
            yield self._peft

    def _load(self, folder: Path, name: str) -> None:
        from peft import PeftConfig, get_peft_model

        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        if self._peft is None:
            config.base_model_name_or_path = None  # PEFT would warn that it differs
            self._peft = get_peft_model(self.model, config, adapter_name=name)
            self.kind = str(getattr(config.peft_type, "value", config.peft_type))
        found = self._peft.load_adapter(str(folder), adapter_name=name, torch_device=str(self.model.device))
        # PEFT accepts both: missing weights stay random, unexpected ones are ignored.
        strange = [*found.missing_keys, *found.unexpected_keys]
        if strange:
            raise ValueError(f"{len(strange)} weights do not match, such as {strange[0]}")

    def _remove(self, name: str) -> None:
        if self._peft is None or name not in self._peft.peft_config:
            return
        if self._names:
            self._peft.delete_adapter(name)
        else:
            self.model, self._peft, self.kind = self._peft.unload(), None, None


class AdapterView:
    """A view of a shared base with one of its adapters, or with none; used like the model itself.

    Others may switch the base between two calls, so every call first activates its own adapter.
    """

    def __init__(self, shared: SharedBase, adapter: str | None) -> None:
        self._shared = shared
        self._adapter = adapter

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._shared.switched(self._adapter) as model:
            return model(*args, **kwargs)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model's own `generate` returns."""
        with self._shared.switched(self._adapter) as model:
            return model.generate(*args, **kwargs)

    @contextmanager
    def switched(self) -> Iterator[Any]:
        """Yield the model itself with this adapter on, for code that takes only a model; not for nested use."""
        with self._shared.switched(self._adapter) as model:
            yield model

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Take the adapter off for the calls of a block."""
        adapter, self._adapter = self._adapter, None
        try:
            yield
        finally:
            self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        # Attributes that the view lacks are the same for all adapters: configuration, device, mode.
        return getattr(self._shared.model, name)
