"""The one client of OpenAI-compatible endpoints, for targets, judges and comparators."""

from dualselect.models.endpoint.client import Endpoint, parse_address
from dualselect.models.endpoint.replies import find_objects
from dualselect.models.endpoint.settings import FILTERED, EndpointSettings, Reply, Usage

__all__ = ["FILTERED", "Endpoint", "EndpointSettings", "Reply", "Usage", "find_objects", "parse_address"]
