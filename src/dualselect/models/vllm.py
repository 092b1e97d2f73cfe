"""Targets served by vLLM, where it is installed and requested: much faster on large sets of prompts."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from dualselect.errors import ConfigError, one_line
from dualselect.models.answering import answer_all, identity_of
from dualselect.models.base import GenerationSettings, Target
from dualselect.models.batches import progress_bar
from dualselect.models.cache import AnswerCache
from dualselect.models.files import Weights, locate
from dualselect.models.generation import (
    OnBatch,
    Prompt,
    answers_of,
    encode_rendered,
    render_prompt,
    stop_tokens,
)
from dualselect.models.loading import has_tokenizer, load_tokenizer, pin_date, tokenizer_hash
from dualselect.models.local import alters_base, locate_base
from dualselect.models.thoughts import Answer, check_thinking

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM sets memory aside for
_AT_ONCE = 256  # answers written to the cache together; vLLM makes batches of its own


class VllmEngines:
    """The engines in memory: one for each base model, while its room for adapters suffices."""

    def __init__(self) -> None:
        self._engines: dict[tuple[str, str, int], Any] = {}

    def engine(self, folder: str, dtype: str, rank: int) -> Any:
        """Return an engine of a base model with room for adapters of this rank or more; 0 for none.

        Raises:
            ConfigError: vLLM is not installed, or cannot load the model.
        """
        for (its_folder, its_dtype, room), engine in self._engines.items():
            if (its_folder, its_dtype) == (folder, dtype) and room >= rank:
                return engine
        options = {"enable_lora": True, "max_lora_rank": rank} if rank else {}
        try:
            engine = vllm_module().LLM(model=folder, dtype=dtype, **options)
        except (RuntimeError, ValueError, OSError) as error:
            cause = one_line(error)[:300]
            raise ConfigError(f"vllm:{folder}: vLLM could not load the model ({cause}); leave out `vllm:`") from error
        self._engines[folder, dtype, rank] = engine
        return engine


class VllmTarget(Target):
    """A model or LoRA adapter served by vLLM; likelihoods cannot be measured."""

    def __init__(
        self,
        name: str,
        identity: dict[str, Any],
        engine: Any,
        tokenizer: Any,
        *,
        adapter: Weights | None = None,
        cache: AnswerCache | None = None,
    ) -> None:
        """Make a target from an engine of vLLM, with the adapter active if one is given."""
        self.name, self.identity, self.cache = name, identity, cache
        self._engine, self._tokenizer, self._adapter = engine, tokenizer, adapter

    def generate(
        self, prompts: Sequence[Prompt], settings: GenerationSettings, *, description: str = "generating"
    ) -> list[Answer]:
        """Return one answer per prompt, in order, with its thoughts if the model thinks; shows a progress bar.

        Raises:
            ConfigError: The chat template refuses a prompt, or opens a thought although thinking is off.
        """
        check_thinking(self.name, self._tokenizer, settings.thinking)
        sampling = vllm_module().SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p if settings.temperature > 0 else 1.0,
            max_tokens=settings.max_new_tokens,
            # Seeds every request by itself, so that batches do not matter.
            seed=settings.seed if settings.temperature > 0 else None,
            # The engine knows those that only the model declares.
            stop_token_ids=stop_tokens(None, self._tokenizer) or None,
        )

        def ask(rendered: list[str], on_batch: OnBatch) -> None:
            rows = [encode_rendered(self._tokenizer, text) for text in rendered]
            with progress_bar(description, len(rows)) as advance:
                for start in range(0, len(rows), _AT_ONCE):
                    batch = rows[start : start + _AT_ONCE]
                    on_batch(list(range(start, start + len(batch))), self._answers(batch, sampling))
                    advance(len(batch))

        render = partial(render_prompt, self._tokenizer, thinking=settings.thinking)
        return answer_all(self.identity, prompts, settings, self.cache, ask, render=render)

    def _answers(self, rows: list[list[int]], sampling: Any) -> list[Answer]:
        """Return the engine's answers to prompts of token ids, read like those of a model in memory."""
        prompts = [{"prompt_token_ids": row} for row in rows]
        outputs = self._engine.generate(prompts, sampling, use_tqdm=False, lora_request=self._lora_request())
        found = [output.outputs[0] for output in outputs]
        # Decoded here, since vLLM leaves out special tokens, some of which mark thoughts.
        generated = [list(output.token_ids) for output in found]
        return answers_of(self._tokenizer, rows, generated, [output.finish_reason for output in found])

    def _lora_request(self) -> Any:
        if self._adapter is None:
            return None
        from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

        # The engine identifies adapters by a number, which must be the same for the same adapter.
        number = int(self._adapter.hash[:7], 16) + 1
        return LoRARequest(self._adapter.hash, number, str(self._adapter.folder))


def open_vllm(
    name: str,
    engines: VllmEngines,
    *,
    dtype: str | None = None,
    resolve: Callable[[str], str] = str,
    cache: AnswerCache | None = None,
    moment: datetime | None = None,
) -> VllmTarget:
    """Return a folder or hub id as a target served by vLLM.

    Args:
        name: Folder or hub id, without the `vllm:`.
        engines: Engines already in memory.
        dtype: Type of the weights; None takes that of the checkpoint.
        resolve: Function from names to folders, where it knows better than the hub.
        cache: Cache of answers; None keeps none.
        moment: Time whose date chat templates write; None for now.

    Raises:
        ConfigError: vLLM is not installed, the model does not exist, or vLLM cannot use its adapter.
    """
    version = vllm_module().__version__
    found = locate(name, resolve)
    adapter, base, rank = None, found, 0
    if found.is_adapter:
        config = found.adapter_config()
        adapter, base, rank = found, locate_base(found, config, resolve), _room(found, config)
    tokenizer = pin_date(load_tokenizer(found if has_tokenizer(found) else base), moment or datetime.now())
    parts = {
        "weights": base.hash,
        **({"adapter": adapter.hash} if adapter else {}),
        "dtype": dtype or "auto",
        "tokenizer": tokenizer_hash(tokenizer),
        "engine": f"vllm {version}",
    }
    identity = identity_of(f"vllm:{found.name}", "vllm", parts) | {"base": base.name, "revision": base.revision}
    return VllmTarget(
        identity["name"],
        identity,
        engines.engine(str(base.folder), dtype or "auto", rank),
        tokenizer,
        adapter=adapter,
        cache=cache,
    )


def vllm_module() -> Any:
    """Return the package `vllm`.

    Raises:
        ConfigError: vLLM is not installed.
    """
    try:
        import vllm  # type: ignore[import-not-found]
    except ImportError as error:
        raise ConfigError(
            "vllm: is not installed; `pip install vllm`, or leave out `vllm:` before the model"
        ) from error
    return vllm


def _room(adapter: Weights, config: dict[str, Any]) -> int:
    """Return the smallest rank that vLLM sets memory aside for and that this adapter fits into."""
    rank = max([int(config.get("r") or 0), *(config.get("rank_pattern") or {}).values()])
    fitting = [room for room in _RANKS if room >= rank]
    if config.get("peft_type") != "LORA" or config.get("use_dora") or alters_base(config) or not rank or not fitting:
        raise ConfigError(
            f"{adapter.name}: not a plain LoRA of rank 1 to {_RANKS[-1]}, as vLLM needs; leave out `vllm:`"
        )
    return fitting[0]
