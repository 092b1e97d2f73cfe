"""When a refresh is due."""

import pytest

from dualselect.errors import ConfigError
from dualselect.selection import RefreshTrigger


@pytest.mark.parametrize(
    ("trigger", "steps", "epochs", "cosine", "due"),
    [
        (RefreshTrigger("epoch"), 99, 0, None, False),
        (RefreshTrigger("epoch"), 1, 1, None, True),
        (RefreshTrigger("steps", every=5), 4, 3, None, False),
        (RefreshTrigger("steps", every=5), 5, 0, None, True),
        (RefreshTrigger("drift", every=2, drift=0.5), 1, 0, -1.0, False),
        (RefreshTrigger("drift", every=2, drift=0.5), 2, 0, 0.49, True),
        (RefreshTrigger("drift", every=2, drift=0.5), 2, 1, 0.51, False),
        (RefreshTrigger("drift", every=2, drift=0.5), 9, 9, None, False),
    ],
)
def test_due(trigger, steps, epochs, cosine, due):
    assert trigger.due(steps_since=steps, epochs_since=epochs, cosine=cosine) is due


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "epochs"}, "did you mean 'epoch'"),
        ({"every": 0}, "refresh_every is 0"),
        ({"drift": 1.5}, "refresh_drift is 1.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RefreshTrigger(**options)
