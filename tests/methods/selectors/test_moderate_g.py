"""Moderate-G by hand, and in runs against single backward passes."""

import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.methods import SFT, ModerateG


def kept(method, norms, losses=None):
    columns = {"norm": torch.tensor(norms), "loss": torch.ones(len(norms)) if losses is None else torch.tensor(losses)}
    chosen = method.keep(method.score(columns), torch.arange(len(norms)), run=None)
    return chosen.nonzero().flatten().tolist()


@pytest.mark.parametrize(("share", "expected"), [(0.2, [2]), (0.4, [1, 2]), (0.6, [1, 2, 3]), (1.0, [0, 1, 2, 3, 4])])
def test_the_norms_nearest_to_the_median_are_kept(share, expected):
    assert kept(ModerateG(keep_fraction=share), [1.0, 2.0, 3.0, 4.0, 100.0]) == expected


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    """Norms 1, 2, 4, 9: the median is 3, so 2 and 4 tie; the lower or upper middle would keep one of them alone."""
    assert ModerateG().score({"norm": torch.tensor([1.0, 2.0, 4.0, 9.0]), "loss": torch.ones(4)}).tolist() == [
        -2.0,
        -1.0,
        -1.0,
        -6.0,
    ]


def test_samples_of_extreme_losses_come_last_and_do_not_move_the_median():
    """Of ten, one at each end: without those of norm 50 the median is 4.5, with them 5.5."""
    norms = [50.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 50.0]
    losses = [0.0, *[1.0] * 8, 9.0]
    assert kept(ModerateG(keep_fraction=0.2, loss_trim=0.1), norms, losses) == [4, 5]
    assert kept(ModerateG(keep_fraction=0.8, loss_trim=0.1), norms, losses) == list(range(1, 9))
    assert kept(ModerateG(keep_fraction=1.0, loss_trim=0.1), norms, losses) == list(range(10))


def test_a_sample_without_a_finite_gradient_is_left_out():
    assert kept(ModerateG(keep_fraction=1.0), [1.0, float("nan"), 3.0], [1.0, float("nan"), 1.0]) == [0, 2]


def test_a_run_keeps_those_whose_norms_a_loop_finds_nearest(trainer_of, gradient_of):
    trainer = trainer_of(ModerateG(keep_fraction=0.25, loss_trim=0.0))
    norms = []
    for row in trainer.train_dataset:
        _, gradients = gradient_of(trainer, row)
        norms.append(torch.cat([part.flatten() for part in gradients.values()]).norm())
    distance = (torch.stack(norms) - torch.stack(norms).quantile(0.5)).abs()
    expected = sorted(distance.argsort()[:4].tolist())
    prepared = trainer.method.prepare(trainer.train_dataset, trainer.run)
    assert prepared["dualselect_index"][:] == expected


def test_all_of_the_samples_are_plain_sft_bit_for_bit(trainer_of):
    weights = []
    for method in (ModerateG(keep_fraction=1.0), SFT()):
        trainer = trainer_of(method, method.name)
        trainer.train()
        weights.append(torch.cat([param.flatten() for param in trainer.run.params.values()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_fraction": 0.0}, "keep_fraction is 0.0"),
        ({"loss_trim": 0.5}, "loss_trim is 0.5"),
        ({"warmup_fraction": 2.0}, "warmup_fraction is 2.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ModerateG(**options)
