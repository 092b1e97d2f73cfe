"""One client for whatever asks a model behind an OpenAI-compatible endpoint: targets, judges and comparators."""

from dualselect.models.endpoint.address import parse_address
from dualselect.models.endpoint.client import Endpoint
from dualselect.models.endpoint.objects import find_objects
from dualselect.models.endpoint.settings import EndpointSettings, Reply, Usage

__all__ = ["Endpoint", "EndpointSettings", "Reply", "Usage", "find_objects", "parse_address"]
