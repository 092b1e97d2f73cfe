"""One client for whatever asks a model behind an OpenAI-compatible endpoint: targets, judges and comparators."""

from dualselect.evaluation.endpoint.address import parse_address
from dualselect.evaluation.endpoint.client import Endpoint
from dualselect.evaluation.endpoint.objects import find_objects
from dualselect.evaluation.endpoint.rubric import Rubric
from dualselect.evaluation.endpoint.settings import EndpointSettings, Reply, Usage

__all__ = ["Endpoint", "EndpointSettings", "Reply", "Rubric", "Usage", "find_objects", "parse_address"]
