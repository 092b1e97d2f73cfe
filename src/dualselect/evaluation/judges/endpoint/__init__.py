"""One client for whatever asks a model behind an OpenAI-compatible endpoint."""

from dualselect.evaluation.judges.endpoint.client import Endpoint
from dualselect.evaluation.judges.endpoint.objects import find_objects
from dualselect.evaluation.judges.endpoint.rubric import Rubric
from dualselect.evaluation.judges.endpoint.settings import EndpointSettings, Reply, Usage

__all__ = ["Endpoint", "EndpointSettings", "Reply", "Rubric", "Usage", "find_objects"]
