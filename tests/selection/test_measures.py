"""Measures against gradients from single backward passes, in every metric."""

import pytest
import torch

from dualselect.gradients import PER_MODULE, RAW, Direction, Layout, Sketch, preconditioned
from dualselect.selection import measures

CLOSE = {"rtol": 1e-3, "atol": 1e-5}


@pytest.fixture
def rows(examples):
    return examples(8)


@pytest.fixture
def gradients(model, rows, truth):
    return truth(model, rows).gradients


@pytest.fixture
def d(model, direction_of):
    return direction_of(model)


def adam(d: Direction) -> tuple[torch.Tensor, object]:
    v = Direction(d.layout, torch.rand(d.layout.size, generator=torch.Generator().manual_seed(1)))
    return 1 / (v.vector.sqrt() + 1e-3), preconditioned(v, 1e-3)


def module_cosines(gradients: torch.Tensor, d: Direction) -> torch.Tensor:
    """Return the cosine of every module's part, `(N, M)`, parameter by parameter."""
    owners = [name.split(".lora_")[0] for name in d.layout.names]
    parts = list(zip(owners, gradients.split(d.layout.sizes, 1), d.vector.split(d.layout.sizes), strict=True))
    columns = []
    for owner in dict.fromkeys(owners):
        own = torch.cat([part for name, part, _ in parts if name == owner], 1)
        other = torch.cat([part for name, _, part in parts if name == owner])
        columns.append(torch.nn.functional.cosine_similarity(own, other[None]))
    return torch.stack(columns, 1)


def test_plain_inner_products(model, rows, gradients, d, pool_of):
    wanted = [measures.norm(), measures.dot("dot", d), measures.cosine("cosine", d)]
    found = pool_of(model, rows).scan(wanted)
    torch.testing.assert_close(found["norm"], gradients.norm(dim=1), **CLOSE)
    torch.testing.assert_close(found["dot"], gradients @ d.vector, **CLOSE)
    torch.testing.assert_close(
        found["cosine"], torch.nn.functional.cosine_similarity(gradients, d.vector[None]), **CLOSE
    )


def test_inner_products_of_adam(model, rows, gradients, d, pool_of):
    scale, metric = adam(d)
    wanted = [measures.norm(metric), measures.dot("dot", d, metric), measures.cosine("cosine", d, metric)]
    found = pool_of(model, rows).scan(wanted)
    dots, norms = gradients @ (scale * d.vector), (gradients.square() @ scale).sqrt()
    torch.testing.assert_close(found["norm"], norms, **CLOSE)
    torch.testing.assert_close(found["dot"], dots, **CLOSE)
    torch.testing.assert_close(found["cosine"], dots / norms / (d.vector.square() @ scale).sqrt(), **CLOSE)


def test_cosines_of_modules(model, rows, gradients, d, pool_of):
    expected, pool = module_cosines(gradients, d), pool_of(model, rows)
    assert expected.shape == (8, 14)  # seven linear layers in each of two blocks
    found = pool.scan([measures.cosine("mean", d, PER_MODULE)])
    torch.testing.assert_close(found["mean"], expected.mean(1), **CLOSE)
    torch.testing.assert_close(pool.scan([measures.module_cosines("each", d)])["each"], expected, **CLOSE)


def test_several_metrics_and_directions_in_one_scan(model, rows, gradients, d, direction_of, pool_of):
    other, (scale, metric) = direction_of(model, 4), adam(d)
    wanted = [measures.cosine("raw", d), measures.cosine("other", other, RAW), measures.cosine("adam", d, metric)]
    found = pool_of(model, rows).scan(wanted)
    cosine = torch.nn.functional.cosine_similarity
    root = scale.sqrt()
    torch.testing.assert_close(found["raw"], cosine(gradients, d.vector[None]), **CLOSE)
    torch.testing.assert_close(found["other"], cosine(gradients, other.vector[None]), **CLOSE)
    torch.testing.assert_close(found["adam"], cosine(gradients * root, (d.vector * root)[None]), **CLOSE)


def test_sketches_are_those_of_the_gradients(model, rows, gradients, d, pool_of):
    projection = Sketch(d.layout, 64, seed=3)
    found = pool_of(model, rows).scan([measures.sketch(projection)])["sketch"]
    expected = torch.stack([projection(Direction(d.layout, gradient)) for gradient in gradients])
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("wanted", ["norm", "cosine", "dot"])
def test_nothing_is_kept_where_norms_and_cosines_are_all_that_is_asked(model, rows, d, pool_of, monkeypatch, wanted):
    pool = pool_of(model, rows)
    capture, kept = pool.watch.capture, []

    def noting(lengths, keep=True, **options):
        kept.append(keep)
        return capture(lengths, keep, **options)

    monkeypatch.setattr(pool.watch, "capture", noting)
    measure = measures.norm() if wanted == "norm" else getattr(measures, wanted)(wanted, d)
    pool.scan([measures.loss(), measure])
    assert not any(kept)


def test_keys_tell_measures_apart():
    layout = Layout(("a.w", "b.w"), (torch.Size([2]), torch.Size([1])))
    d = Direction(layout, torch.tensor([1.0, 2.0, 3.0]))
    v = Direction(layout, torch.tensor([1.0, 1.0, 4.0]))
    near = Direction(layout, torch.tensor([1.0, 2.0, 3.0000002]))

    def keys():
        return [
            measure.key
            for measure in (
                measures.loss(),
                measures.tokens(),
                measures.norm(),
                measures.norm(PER_MODULE),
                measures.norm(preconditioned(v, 1e-8)),
                measures.norm(preconditioned(v, 1e-3)),
                measures.dot("x", d),
                measures.cosine("x", d),
                measures.module_cosines("x", d),
                measures.cosine("y", d),
                measures.cosine("x", near),
                measures.cosine("x", d, preconditioned(v, 1e-8)),
                measures.sketch(Sketch(layout, 2, seed=1)),
                measures.sketch(Sketch(layout, 2, seed=2)),
            )
        ]

    assert keys() == keys()
    assert len(set(keys())) == 14
