"""What is evaluated: models and adapters in memory, endpoints, and engines of vLLM."""

from dualselect.evaluation.targets.base import GenerationSettings, LocalTarget, Target
from dualselect.evaluation.targets.endpoint import EndpointTarget
from dualselect.evaluation.targets.local import LoadedTarget, LocalModels
from dualselect.evaluation.targets.opening import open_target
from dualselect.evaluation.targets.vllm_engine import VllmEngines, VllmTarget

__all__ = [
    "EndpointTarget",
    "GenerationSettings",
    "LoadedTarget",
    "LocalModels",
    "LocalTarget",
    "Target",
    "VllmEngines",
    "VllmTarget",
    "open_target",
]
