"""What judges with a model of their own share: they load it when the first answer comes, and name its version."""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from dualselect.errors import ConfigError
from dualselect.evaluation.judges.base import Judge
from dualselect.models.files import Weights, file_hash, locate
from dualselect.models.loading import default_device, load_model, load_tokenizer
from dualselect.runs.results import Verdict

_DECIDING_SUFFIXES = {".json", ".jinja", ".model", ".txt"}  # beside the weights: configuration, tokenizer, template


class LocalJudge(Judge):
    """A judge whose model is in memory, on the accelerator if there is one."""

    def __init__(
        self, name: str, method: str, model_id: str, auto_class: str, batch_size: int, show_progress: bool
    ) -> None:
        """Make a judge without loading its model.

        Args:
            name: Name of the kind of judge.
            method: Way in which the model is asked, with its version.
            model_id: Hub id or folder of the model.
            auto_class: Class of transformers that loads it.
            batch_size: Answers at once; halved where memory does not suffice.
            show_progress: Whether to show a progress bar.
        """
        self.name = f"{name}-{PurePosixPath(model_id).name}"
        self.model_id = model_id
        self.batch_size = batch_size
        self._method, self._auto_class = method, auto_class
        self._batching: dict[str, Any] = {
            "batch_size": batch_size,
            "description": self.name,
            "show_progress": show_progress,
        }

    @property
    def version(self) -> str:  # type: ignore[override]
        """How the model is asked, and the model with its revision if that is known."""
        revision = fingerprint(self.model_id)
        return f"{self._method}, {self.model_id}" + (f"@{revision}" if revision else "")

    def judge(self, prompt: str, answer: str) -> Verdict:
        """Return the verdict on one answer."""
        return self.judge_all([prompt], [answer])[0]

    def judge_all(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """Return a verdict for every answer, in order.

        Raises:
            ConfigError: The model could not be loaded, or is of the wrong kind.
        """
        pairs = list(zip(prompts, answers, strict=True))
        return self._verdicts(*self._loaded, pairs) if pairs else []

    @abstractmethod
    def _verdicts(self, model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return a verdict for every pair of prompt and answer, in order."""

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        try:
            weights = locate(self.model_id)
            return load_model(weights, "auto", default_device(), self._auto_class), load_tokenizer(weights)
        except ConfigError as error:
            raise ConfigError(f"judge {self.name}: model '{self.model_id}' could not be loaded: {error}") from error


def fingerprint(model_id: str) -> str:
    """Return what identifies a model: the hub's commit or the folder's hash; '' if neither is known."""
    folder = Path(model_id).expanduser()
    if not folder.is_dir():
        return _cached_commit(model_id)
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _DECIDING_SUFFIXES]
    parts = [Weights(model_id, folder).hash, *(f"{path.name} {file_hash(path)}" for path in files)]
    return f"sha256:{sha256(' '.join(parts).encode()).hexdigest()[:16]}"


def _cached_commit(model_id: str) -> str:
    """Return the commit of a hub model whose configuration is in the cache, without a request to the hub."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model_id, "config.json")
    return Path(path).parent.name if isinstance(path, str) else ""  # .../snapshots/<commit>/config.json
