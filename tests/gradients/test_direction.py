"""The algebra of directions against plain vectors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dualselect.gradients import Direction, Layout, safe_cosine, trainable_parameters

numbers = st.lists(st.floats(-100, 100, width=32), min_size=10, max_size=10)


def params_of():
    return {"a": nn.Parameter(torch.zeros(2, 3)), "b": nn.Parameter(torch.zeros(4))}


def direction_of(values):
    return Direction(Layout.of(params_of()), torch.tensor(values, dtype=torch.float32))


@given(numbers, numbers, st.floats(-10, 10, width=32))
def test_algebra_is_that_of_vectors(left, right, factor):
    a, b = direction_of(left), direction_of(right)
    x, y = torch.tensor(left).double(), torch.tensor(right).double()
    close = {"rtol": 1e-4, "atol": 1e-2, "check_dtype": False}
    torch.testing.assert_close(a.dot(b), x @ y, **close)
    torch.testing.assert_close(a.norm(), x.norm(), **close)
    torch.testing.assert_close(a.clone().axpy(factor, b).vector, x + factor * y, **close)
    torch.testing.assert_close(a.clone().axpy(torch.tensor(factor), b).vector, x + factor * y, **close)
    torch.testing.assert_close(a.clone().scale(factor).vector, factor * x, **close)
    assert -1.0001 <= a.cosine(b) <= 1.0001


def test_views_share_memory_and_keep_shapes():
    direction = direction_of(range(10))
    views = direction.views()
    assert {name: view.shape for name, view in views.items()} == {"a": (2, 3), "b": (4,)}
    views["b"][0] = 50.0
    assert direction.vector[6] == 50.0
    assert direction.clone().vector.data_ptr() != direction.vector.data_ptr()


def test_grads_go_in_and_out_in_each_parameter_s_dtype():
    params = params_of() | {"c": nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))}
    direction = Direction(Layout.of(params), torch.arange(11.0))
    direction.assign_grad(params)
    assert params["c"].grad.dtype == torch.bfloat16
    assert torch.equal(Direction.from_grads(params).vector, direction.vector)
    params["b"].grad = None
    assert Direction.from_grads(params).vector[6:10].eq(0).all()


def test_assigned_grads_share_no_memory_with_the_direction():
    params, direction = params_of(), direction_of(range(10))
    for _ in range(2):  # into no gradient, then into one that is there
        direction.assign_grad(params)
        params["a"].grad.zero_()
        assert torch.equal(direction.vector, torch.arange(10.0))
    storage = params["b"].grad.data_ptr()
    direction.assign_grad(params)
    assert params["b"].grad.data_ptr() == storage


def test_values_go_in_and_out_in_each_parameter_s_dtype():
    params = params_of() | {"c": nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))}
    direction = Direction(Layout.of(params), torch.arange(11.0))
    direction.copy_to(params)
    assert torch.equal(params["a"], torch.arange(6.0).view(2, 3))
    assert params["c"].dtype == torch.bfloat16
    assert torch.equal(Direction.of(params).vector, direction.vector)
    direction.add_to(params)
    assert torch.equal(Direction.of(params).vector, 2 * direction.vector)
    assert params["c"].dtype == torch.bfloat16
    assert all(param.requires_grad and param.is_leaf for param in params.values())
    Direction.of(params).vector.zero_()
    assert params["a"].any()


def test_elementwise_algebra_is_in_place():
    direction = direction_of([4.0] * 10)
    assert direction.rsqrt_() is direction
    assert direction.vector.eq(0.5).all()
    assert direction.mul_(direction_of([32.0] * 10)).vector.eq(16).all()
    assert direction.sqrt_().vector.eq(4).all()


def test_state_goes_out_and_in_and_must_fit():
    direction, other = direction_of(range(10)), direction_of([0.0] * 10)
    other.load_state_dict({name: view.clone() for name, view in direction.state_dict().items()})
    assert torch.equal(other.vector, direction.vector)
    with pytest.raises(ValueError, match="parameters differ"):
        other.load_state_dict({"a": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="shape of b"):
        other.load_state_dict({"a": torch.zeros(2, 3), "b": torch.zeros(5)})


def test_a_vector_that_does_not_fit_is_refused():
    layout = Layout.of(params_of())
    with pytest.raises(ValueError, match=r"\(10,\)"):
        Direction(layout, torch.zeros(9))
    with pytest.raises(ValueError, match="fp32"):
        Direction(layout, torch.zeros(10, dtype=torch.float64))


def test_a_cosine_with_nothing_is_zero():
    assert direction_of([0.0] * 10).cosine(direction_of(range(10))) == 0
    assert safe_cosine(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(2.0)) == 0


def test_tied_parameters_count_once(tied_tiny_model):
    names = list(trainable_parameters(tied_tiny_model))
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
