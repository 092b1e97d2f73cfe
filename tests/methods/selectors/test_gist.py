"""GIST against numpy's singular value decomposition, and in runs against single backward passes."""

import numpy as np
import pytest
import torch

from dualselect.errors import ConfigError
from dualselect.gradients import Layout, Losses
from dualselect.methods import GIST, SFT
from dualselect.methods.gist import _Inside, subspace


def flat(gradients):
    return torch.cat([part.flatten() for part in gradients.values()])


@pytest.fixture
def gradients():
    """Return six vectors of 50 numbers of very unequal lengths, which lie in a space of five directions."""
    torch.manual_seed(0)
    rows = torch.randn(6, 50) * torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5, 1.0])[:, None]
    rows[5] = rows[0] - rows[3]
    return rows


@pytest.mark.parametrize(("rank", "count"), [(2, 2), (5, 5), (150, 5)])
def test_the_basis_is_that_of_a_singular_value_decomposition(gradients, rank, count):
    """Up to signs; a direction without variance is left out, and V^T g of a reference is its row of U S."""
    basis, features = subspace(gradients, rank)
    u, s, vt = np.linalg.svd(gradients.double().numpy(), full_matrices=False)
    torch.testing.assert_close(basis.T @ basis, torch.eye(count), atol=1e-5, rtol=0)
    turned = basis.T.double() @ torch.from_numpy(vt[:count].T)
    torch.testing.assert_close(turned.abs(), torch.eye(count).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients @ basis, features, atol=1e-4, rtol=0)
    torch.testing.assert_close(features.abs().double(), torch.from_numpy(u * s).abs()[:, :count], atol=1e-4, rtol=0)


def test_the_cut_of_small_eigenvalues_does_not_depend_on_the_scale(gradients):
    small, large = (subspace(gradients * scale, 150)[0] for scale in (1e-5, 1e5))
    assert small.shape == large.shape == (50, 5)


@pytest.mark.parametrize(("variance", "count"), [(0.5, 1), (0.79, 1), (0.8, 2), (0.98, 2), (0.99, 3), (1.0, 3)])
def test_fewer_directions_are_enough_for_a_share_of_the_variance(variance, count):
    """Orthogonal rows of squared norms 64, 16 and 1: together 0.790, 0.988 and all of 81."""
    rows = torch.diag(torch.tensor([8.0, 4.0, 1.0]))
    assert subspace(rows, 150, variance)[0].shape[1] == count


def expected_scores(trainer, gradient_of, rank):
    """Return cosines and norms in the space of all references, from single backward passes and numpy."""
    wanted, own = (
        torch.stack([flat(gradient_of(trainer, row)[1]) for row in rows]).double().numpy()
        for rows in (trainer.run.pool().examples, trainer.train_dataset)
    )
    basis = np.linalg.svd(wanted, full_matrices=False)[2][:rank]
    inside, target = own @ basis.T, (wanted @ basis.T).mean(0)
    norm = np.linalg.norm(inside, axis=1)
    return inside @ target / norm / np.linalg.norm(target), norm


@pytest.mark.parametrize("rank", [3, 150])
def test_scores_are_cosines_within_the_references_space(trainer_of, gradient_of, scored, rank):
    trainer = trainer_of(GIST(rank=rank))
    found = scored(trainer, trainer.method)
    cosine, norm = expected_scores(trainer, gradient_of, rank)
    assert found.scores["gist"].numpy() == pytest.approx(cosine, abs=1e-3)
    assert found.scanned["gist.norm"].numpy() == pytest.approx(norm, rel=1e-3)
    kept = GIST(keep_fraction=0.25).keep(found.scores["gist"], torch.arange(16), trainer.run)
    assert kept.nonzero().flatten().tolist() == sorted(np.argsort(-cosine)[:4].tolist())


class _Given:
    """The gradients of a batch by one parameter."""

    def __init__(self, rows):
        self.rows = rows

    def of_parameter(self, name):
        return self.rows


def read(gradients, rank, own):
    basis, features = subspace(gradients, rank)
    layout = Layout(("w",), (torch.Size([gradients.shape[1]]),))
    losses = Losses(torch.zeros(len(own)), torch.ones(len(own), dtype=torch.long))
    return _Inside(basis, features.mean(0), layout)(losses, _Given(own))[:, 0]


def test_within_the_span_it_is_the_whole_cosine_with_the_mean(gradients):
    own = torch.randn(4, 6) @ gradients
    expected = torch.cosine_similarity(own, gradients.mean(0)[None])
    torch.testing.assert_close(read(gradients, 150, own), expected, atol=1e-4, rtol=0)


def test_what_lies_outside_the_space_does_not_count(gradients):
    own = torch.randn(4, 50)
    basis = torch.linalg.svd(gradients, full_matrices=False).Vh[:2]
    outside = torch.randn(4, 50)
    outside -= outside @ basis.T @ basis
    torch.testing.assert_close(read(gradients, 2, own + 3 * outside), read(gradients, 2, own), atol=1e-4, rtol=0)
    assert read(gradients, 2, outside * 0).tolist() == [0.0] * 4


def test_as_many_references_as_asked_for_span_the_space(trainer_of, scored):
    """One reference spans one direction, in which every cosine is 1 or -1."""
    trainer = trainer_of(GIST(reference_count=1))
    scores = scored(trainer, trainer.method).scores["gist"]
    torch.testing.assert_close(scores.abs(), torch.ones(16), atol=1e-5, rtol=0)


def test_all_of_the_samples_are_plain_sft_bit_for_bit(trainer_of):
    weights = []
    for method in (GIST(keep_fraction=1.0, warmup_fraction=0.0), SFT()):
        trainer = trainer_of(method, method.name)
        trainer.train()
        weights.append(torch.cat([param.flatten() for param in trainer.run.params.values()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize("options", [{"keep_fraction": 0.0}, {"rank": 0}, {"variance": 1.5}, {"reference_count": 0}])
def test_bad_options_are_refused(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} is {options[name]}"):
        GIST(**options)
