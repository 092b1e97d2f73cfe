"""Models: their names and files, and everything that answers: models and adapters in memory, endpoints, vLLM."""

from typing import TYPE_CHECKING

from dualselect.lazy import lazy_names
from dualselect.models.default_model import DEFAULT_MODEL, resolve_model

if TYPE_CHECKING:
    from dualselect.models.base import GenerationSettings, LocalTarget, Target
    from dualselect.models.generation import generate_answers
    from dualselect.models.local import LoadedTarget, LocalModels
    from dualselect.models.opening import open_target
    from dualselect.models.remote import EndpointTarget
    from dualselect.models.vllm import VllmEngines, VllmTarget

__all__ = [
    "DEFAULT_MODEL",
    "EndpointTarget",
    "GenerationSettings",
    "LoadedTarget",
    "LocalModels",
    "LocalTarget",
    "Target",
    "VllmEngines",
    "VllmTarget",
    "generate_answers",
    "open_target",
    "resolve_model",
]

__getattr__ = lazy_names(
    __name__,
    {
        "EndpointTarget": "dualselect.models.remote",
        "GenerationSettings": "dualselect.models.base",
        "LoadedTarget": "dualselect.models.local",
        "LocalModels": "dualselect.models.local",
        "LocalTarget": "dualselect.models.base",
        "Target": "dualselect.models.base",
        "VllmEngines": "dualselect.models.vllm",
        "VllmTarget": "dualselect.models.vllm",
        "generate_answers": "dualselect.models.generation",
        "open_target": "dualselect.models.opening",
    },
)
