"""Every line of the table of architectures: exact against single backward passes, or refused by name, never wrong."""

import sys
from pathlib import Path

import pytest
import torch

from dualselect.errors import DualSelectError
from dualselect.gradients import Direction, Watch, check_model, per_sample_nll, trainable_parameters

sys.path.insert(0, str(Path(__file__).parent))
from architectures import ARCHITECTURES, EXACT, TRAININGS, table

pytestmark = pytest.mark.slow

WEIGHTS = torch.tensor([0.3, 0.0, 2.0, 1.0])


def refusal_of(architecture, training, batch):
    """Return the message of a refusal, or None and what capture answers."""
    try:
        model = architecture.model(training)
    except ValueError as error:  # PEFT's own
        return str(error), None, None
    params = trainable_parameters(model)
    try:
        watch = Watch(model, params)
        watch.install()
        check_model(model, params, batch, watch=watch)
        with watch.capture() as gradients:
            losses = per_sample_nll(model, batch).loss
            gradients.backward(losses)
    except DualSelectError as error:
        return str(error), model, None
    return None, model, (losses.detach(), gradients)


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_an_architecture_is_exact_or_refused_by_name(architecture, training, make_batch, loop):
    batch, verdict = make_batch(4, 10), architecture.verdicts()[training]
    refusal, model, answers = refusal_of(architecture, training, batch)
    if verdict != EXACT:
        assert refusal is not None
        assert verdict in refusal
        return
    assert refusal is None
    truth = loop(model, batch)
    losses, gradients = answers
    vector = torch.randn(truth.gradients.shape[1], generator=torch.Generator().manual_seed(3))
    for ours, true in (
        (losses, truth.losses),
        (gradients.dot(Direction(gradients.layout, vector)), truth.gradients @ vector),
        (gradients.norm(), truth.gradients.norm(dim=1)),
        (gradients.weighted_sum(WEIGHTS).vector, WEIGHTS @ truth.gradients),
    ):
        torch.testing.assert_close(ours, true.float(), rtol=1e-3, atol=1e-4 * true.abs().max().item())


def test_the_documentation_has_the_table_that_is_tested():
    docs = Path(__file__).parents[2] / "docs" / "architectures.md"
    assert docs.read_text() == table(), "run `python scripts/architectures.py`"
