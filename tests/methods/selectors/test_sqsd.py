"""SQSD against updates of whole weights, formed one sample at a time."""

import pytest
import torch

from dualselect.methods import SFT, SQSD

pytestmark = pytest.mark.slow


def weights_of(params):
    """Return every module's B A from the parameters of a LoRA, by the name of A."""
    pairs = {name: name.replace("lora_A", "lora_B") for name in params if "lora_A" in name}
    return {a: params[b].detach().clone() @ params[a].detach().clone() for a, b in pairs.items()}


def update_of(params, gradients):
    """Return every module's -(B dA + dB A), by the name of A."""
    updates = {}
    for a in weights_of(params):
        b = a.replace("lora_A", "lora_B")
        updates[a] = -(params[b].detach() @ gradients[a] + gradients[b] @ params[a].detach())
    return updates


def danger(updates, directions):
    cosines = [
        torch.sum(update / update.norm() * (directions["harmful"][name] - directions["references"][name]))
        for name, update in updates.items()
    ]
    return torch.stack(cosines).sum()


@pytest.fixture
def directions_of(trainer_of):
    """Return a function from the settings of a trainer to the unit directions of both pools, trained apart."""

    def find(pools, **settings):
        directions = {}
        for pool in ("references", "harmful"):
            trainer = trainer_of(SFT(), f"apart-{pool}", **settings)
            trainer.run.pools[pool] = pools.run.pool(pool)
            start = weights_of(trainer.run.params)
            with trainer.run.trained(SFT(), pool):
                end = weights_of(trainer.run.params)
            directions[pool] = {name: (end[name] - start[name]) / (end[name] - start[name]).norm() for name in start}
        return directions

    return find


@pytest.mark.parametrize("fresh", [False, True], ids=["B is random", "B is zero"])
def test_danger_is_that_of_updates_of_whole_weights(trainer_of, gradient_of, directions_of, scored, fresh):
    trainer = trainer_of(SQSD(), fresh=fresh)
    found = scored(trainer, trainer.method).scores["sqsd"]
    directions = directions_of(trainer, fresh=fresh)
    params = trainer.run.params
    for row, score in zip(trainer.train_dataset, found, strict=True):
        updates = update_of(params, gradient_of(trainer, row)[1])
        torch.testing.assert_close(-score, danger(updates, directions), rtol=1e-3, atol=1e-4)
    assert found.abs().max() <= 2 * len(directions["harmful"])
    assert found.std() > 0.01


def test_after_a_warm_up_updates_are_those_of_the_warm_weights(trainer_of, gradient_of, directions_of, scored):
    trainer = trainer_of(SQSD())
    found = scored(trainer, trainer.method, fraction=0.5, epochs=2.0).scores["sqsd"]
    directions = directions_of(trainer)
    order = torch.randperm(16, generator=trainer.run.generator("warm-up"))[:8]
    half = trainer.train_dataset.select(sorted(order.tolist()))
    with trainer.run.trained(SFT(), half, num_train_epochs=2.0, max_steps=-1):
        for row, score in zip(trainer.train_dataset, found, strict=True):
            updates = update_of(trainer.run.params, gradient_of(trainer, row)[1])
            torch.testing.assert_close(-score, danger(updates, directions), rtol=1e-3, atol=1e-4)


def test_exchanging_the_pools_turns_the_scores_around(trainer_of, scored, pools):
    first = trainer_of(SQSD(), "first")
    scores = scored(first, first.method).scores["sqsd"]
    pools["references"], pools["harmful"] = pools["harmful"], pools["references"]
    second = trainer_of(SQSD(), "second")
    torch.testing.assert_close(scored(second, second.method).scores["sqsd"], -scores, rtol=1e-3, atol=1e-4)


def test_a_longer_update_in_the_same_direction_has_the_same_danger(trainer_of):
    method, trainer = SQSD(), trainer_of(SQSD())
    (column,) = method.measures(trainer.run, method.at_start(trainer.run), None)
    gradients = {name: torch.randn(3, *param.shape) for name, param in trainer.run.params.items()}
    modules = {name: name.split(".lora_")[0] for name in gradients}
    factor = {module: 0.1 * 3.0**place for place, module in enumerate(dict.fromkeys(modules.values()))}
    longer = {name: factor[modules[name]] * part for name, part in gradients.items()}
    found = [column.read(None, _Given(parts)) for parts in (gradients, longer)]
    torch.testing.assert_close(*found)


class _Given:
    def __init__(self, parts):
        self.of_parameter = parts.__getitem__


def test_a_run_keeps_the_least_dangerous(trainer_of, scored):
    trainer = trainer_of(SQSD(keep_fraction=0.75, warmup_fraction=0.0))
    scores = scored(trainer, trainer.method).scores["sqsd"]
    kept = trainer.method.prepare(trainer.train_dataset, trainer.run)["dualselect_index"][:]
    assert kept == sorted(scores.argsort(descending=True)[:12].tolist())


def test_a_parameter_without_a_partner_is_a_weight_of_its_own(trainer_of):
    """Of a LoRA that trains a bias too, the bias counts as one more module."""
    method, trainer = SQSD(), trainer_of(SQSD())
    trainer.run.params = {**trainer.run.params, "model.bias": torch.nn.Parameter(torch.zeros(2))}
    at_start = method.at_start(trainer.run)
    at_start["harmful"].views()["model.bias"].copy_(torch.tensor([3.0, 4.0]))
    (column,) = method.measures(trainer.run, at_start, None)
    gradients = {name: torch.zeros(1, *param.shape) for name, param in trainer.run.params.items()}
    gradients["model.bias"] = torch.tensor([[-7.0, 0.0]])
    torch.testing.assert_close(column.read(None, _Given(gradients)), torch.tensor([0.6]))
