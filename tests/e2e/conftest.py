"""The real default model; it is fetched and converted on first use."""

import pytest

from dualselect.models import DEFAULT_MODEL, resolve_model


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> str:
    """Return the folder of SmolLM2-135M-Instruct."""
    return resolve_model(DEFAULT_MODEL)


@pytest.fixture(autouse=True)
def _two_threads():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
