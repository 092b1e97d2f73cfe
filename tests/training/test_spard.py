"""SPARD in real runs: the projection reaches its threshold, and the optimizer's further step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dualselect.errors import ConfigError
from dualselect.gradients import Direction, Layout
from dualselect.methods import SPARD
from dualselect.training.run import TrainingRun


def test_a_further_step_is_one_of_the_run_s_optimizer_and_leaves_no_gradient():
    params = {"w": nn.Parameter(torch.tensor([1.0, 2.0]))}
    run = TrainingRun(0, nn.Module(), None, params, {}, SimpleNamespace())
    g = Direction(Layout.of(params), torch.tensor([3.0, -4.0]))
    with pytest.raises(ConfigError, match="no optimizer before training begins"):
        run.optimize(g)
    run.optimizer = torch.optim.SGD(params.values(), lr=0.5, momentum=0.5)
    for expected in ([-0.5, 4.0], [-2.75, 7.0]):  # the second step has the momentum of the first
        run.optimize(g)
        assert params["w"].tolist() == expected
        assert params["w"].grad is None


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["paper", "released-code"])
def test_references_keep_a_lower_loss_than_under_plain_training(make_trainer, projection):
    """All references are in the batch, so that the loss that is logged is that of the pool."""
    found = {}
    for threshold in (1e9, 1.0):  # the first is plain training
        options = {"threshold": threshold, "safe_batch_size": 10, "safe_fraction": 1.0, "largest_factor": 1.0}
        trainer = make_trainer(SPARD(projection=projection, **options))
        trainer.train()
        found[threshold] = [event for event in trainer.state.log_history if "dualselect/safe_loss" in event]
    plain, projected = ([event["dualselect/safe_loss"] for event in events] for events in found.values())
    assert projected[0] == plain[0]  # measured before the first projection
    assert all(ours < theirs for ours, theirs in zip(projected[1:], plain[1:], strict=True))
    limit = 1.0 if projection == "paper" else 1.1
    assert [event["dualselect/projected"] for event in found[1.0]] == [float(loss > limit) for loss in projected]
    assert all(event["dualselect/projected"] == 0 for event in found[1e9])
