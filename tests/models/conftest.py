"""Short answers."""

import pytest

from dualselect.models import GenerationSettings


@pytest.fixture
def settings() -> GenerationSettings:
    return GenerationSettings(max_new_tokens=8, batch_size=2)
