"""Whatever was asked for in between, models come back as they were."""

import pytest
import torch
from torch import nn

from dualselect.models.modes import eval_mode


def made():
    """Return a model whose parts are in modes of their own."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    model[1].eval()
    return model


@pytest.mark.parametrize("gradients", [False, True])
def test_every_module_gets_its_own_mode_back_even_after_an_error(gradients):
    models = [made(), made()]
    before = [[module.training for module in model.modules()] for model in models]
    assert before[0] == [True, True, False, True, True]

    def measure():
        with eval_mode(*models, gradients=gradients):
            assert not any(module.training for model in models for module in model.modules())
            assert torch.is_grad_enabled() is gradients
            raise KeyError

    with pytest.raises(KeyError):
        measure()
    assert [[module.training for module in model.modules()] for model in models] == before
    assert torch.is_grad_enabled()


def test_nothing_is_dropped_within():
    model, x = made(), torch.randn(3, 4)
    with eval_mode(model):
        assert torch.equal(model(x), model[0](x))
        assert not model(x).requires_grad
    with torch.no_grad(), eval_mode(model, gradients=True):
        assert model(x).requires_grad
