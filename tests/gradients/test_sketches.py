"""Sketches against exact inner products, and the same gradients in every form in which they are kept."""

import pytest
import torch

from dualselect.gradients import Direction, Layout, Sketch, capture, per_sample_nll, trainable_parameters
from dualselect.gradients.factors import Dense, Outer, Rows


def one_parameter(*shape):
    return Layout(("w",), (torch.Size(shape),))


def test_a_sketch_is_linear_and_each_coordinate_goes_to_one_place():
    layout, size = one_parameter(50), 8
    sketch = Sketch(layout, size, seed=0)
    columns = torch.stack([sketch(Direction(layout, row)) for row in torch.eye(50)])
    assert columns.shape == (50, size)
    assert columns.abs().sum(1).eq(1).all()
    vector = torch.randn(50)
    torch.testing.assert_close(sketch(Direction(layout, vector)), vector @ columns)


def test_inner_products_are_unbiased_and_as_exact_as_stated():
    layout, size, seeds = one_parameter(2000), 64, 400
    a, b = Direction(layout, torch.randn(2000)), Direction(layout, torch.randn(2000))
    b.axpy(0.7, a)
    errors = torch.stack([torch.dot(s(a), s(b)) for s in (Sketch(layout, size, seed) for seed in range(seeds))])
    errors = (errors - a.dot(b)) / (a.norm() * b.norm())
    bound = (2 / size) ** 0.5
    assert errors.mean().abs() < 4 * bound / seeds**0.5
    assert bound / 3 < errors.std() < bound


def test_coordinates_of_a_large_column_do_not_fall_together():
    """A matrix whose width is a multiple of k: without turns its columns would each go to one place."""
    layout = one_parameter(64, 128)
    matrix = torch.zeros(64, 128)
    matrix[:, 5] = torch.randn(64)
    sketch = Sketch(layout, 32, seed=0)(Direction(layout, matrix.flatten()))
    assert (sketch != 0).sum() > 16


@pytest.mark.parametrize("chunk", [2**22, 64], ids=["at once", "in chunks"])
def test_every_form_of_a_gradient_has_the_sketch_of_its_vector(monkeypatch, chunk):
    for module in ("factors", "sketches"):
        monkeypatch.setattr(f"dualselect.gradients.{module}.CHUNK", chunk)
    layout = Layout(("first", "w"), (torch.Size([7]), torch.Size([11, 6])))
    sketch = Sketch(layout, 16, seed=3)
    terms = [
        Outer(torch.randn(3, 5, 11), torch.randn(3, 5, 6)),
        Rows(torch.randint(0, 11, (3, 5)), torch.randn(3, 5, 6)),
        Dense(torch.randn(3, 11, 6)),
    ]
    for term in terms:
        block = torch.zeros(3, 11, 6)
        term.add_to(block, first=True)
        vectors = torch.cat([torch.zeros(3, 7), block.flatten(1)], 1)
        expected = torch.stack([sketch(Direction(layout, vector)) for vector in vectors])
        out = torch.zeros(3, 16)
        sketch.add_term(out, "w", term)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [6, 48], ids=["short", "long"])
@pytest.mark.parametrize("kind", ["lora on all linear layers", "lora and a trained embedding", "all parameters, tied"])
def test_captured_gradients_have_the_sketches_of_single_backward_passes(make_model, make_batch, loop, kind, length):
    model, batch = make_model(kind), make_batch(3, length)
    layout = Layout.of(trainable_parameters(model))
    sketch = Sketch(layout, 256, seed=1)
    truth = loop(model, batch).gradients
    expected = torch.stack([sketch(Direction(layout, gradient)) for gradient in truth])
    with capture(model) as gradients:
        gradients.backward(per_sample_nll(model, batch).loss)
    torch.testing.assert_close(gradients.sketch(sketch), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_seeds_decide():
    layout = one_parameter(100)
    vector = Direction(layout, torch.randn(100))
    assert torch.equal(Sketch(layout, 10, 1)(vector), Sketch(layout, 10, 1)(vector))
    assert not torch.equal(Sketch(layout, 10, 1)(vector), Sketch(layout, 10, 2)(vector))
