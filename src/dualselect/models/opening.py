"""Opening what a user writes after `--model` as a target."""

from collections.abc import Callable

from dualselect.errors import ConfigError
from dualselect.models.base import Target
from dualselect.models.cache import AnswerCache
from dualselect.models.endpoint import parse_address
from dualselect.models.local import LocalModels
from dualselect.models.remote import EndpointTarget
from dualselect.models.vllm import VllmEngines, open_vllm

API = "api:"
VLLM = "vllm:"


def open_target(
    spec: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    models: LocalModels | None = None,
    engines: VllmEngines | None = None,
    resolve: Callable[[str], str] = str,
    cache: AnswerCache | None = None,
) -> Target:
    """Return the target that a spec names.

    Args:
        spec: Run folder, adapter folder, model folder, hub id, `vllm:` and one of these, `api:MODEL`, or
            `api:MODEL@http://HOST:PORT/v1`.
        dtype: Type of the weights (`bfloat16`, `float16` or `float32`); None takes that of the checkpoint.
        device: Device such as `cuda:0`; None takes the accelerator where there is one, else the CPU.
        models: Models already in memory, which adapters of the same base share; their `resolve` and `cache` apply.
        engines: Engines of vLLM already in memory.
        resolve: Function from names to folders, where it knows better than the hub.
        cache: Cache of answers.

    Raises:
        ConfigError: There is no such model, or it could not be loaded.
    """
    if models is None:
        models = LocalModels(resolve=resolve, cache=cache)
    if spec.startswith(API):
        return EndpointTarget(*parse_address(spec.removeprefix(API)), cache=models.cache)
    if spec.startswith(VLLM):
        name = spec.removeprefix(VLLM)
        return open_vllm(
            name,
            engines or VllmEngines(),
            dtype=dtype,
            resolve=models.resolve,
            cache=models.cache,
            moment=models.moment,
        )
    if not spec.strip():
        raise ConfigError("the model's name is empty; give a folder, a hub id, or api:MODEL")
    return models.open(spec, dtype=dtype, device=device)
