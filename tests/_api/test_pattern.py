"""`pattern`: the public call."""

import numpy as np
import pytest
import torch
from torch import nn

import torchjac
from torchjac import errors

X = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)


def dense(pattern):
    return pattern.to_scipy().toarray().astype(int).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbors(dtype):
    found = torchjac.pattern(lambda x: x[1:] * x[:-1], X.to(dtype))
    assert dense(found) == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_outputs_and_inputs_stand_one_after_the_other():
    def f(a, b):
        return a + b, b[0]

    found = torchjac.pattern(f, (X[:2], X[2:]))
    assert dense(found) == [[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]


def test_wrt_selects_the_columns():
    found = torchjac.pattern(lambda a, b: a * b, (X[:2], X[2:]), wrt=1)
    assert dense(found) == [[1, 0], [0, 1]]


def test_the_parameters_of_a_module():
    layer = nn.Linear(2, 2)
    found = torchjac.pattern(layer, torch.ones(2), wrt=layer)
    assert dense(found) == [[1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]]


def test_global_scope_holds_for_every_order_of_a_sort_and_local_scope_for_this_one():
    x = torch.tensor([3.0, 1.0, 2.0])
    assert torchjac.pattern(lambda x: x.sort()[0], x).nnz == 9
    local = torchjac.pattern(lambda x: x.sort()[0], x, scope="local")
    assert dense(local) == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_it_is_that_of_a_plan():
    problem = torchjac.testing.scenario("brusselator", 6)
    found = torchjac.pattern(problem.function, problem.x())
    assert found == torchjac.plan(problem.function, problem.x()).pattern == problem.pattern


def test_buffers_and_random_numbers_stay_as_they_are():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())
    buffers = [b.clone() for b in module.buffers()]
    state = torch.get_rng_state()
    torchjac.pattern(module, torch.rand(4, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(buffers, module.buffers(), strict=True))


def test_inputs_stay_as_they_are():
    x = X.clone()
    torchjac.pattern(lambda x: x.mul_(2), x)
    assert torch.equal(x, X)


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_gradients_may_be_switched_off(switch):
    with switch():
        assert np.array_equal(dense(torchjac.pattern(torch.sin, X)), np.eye(4))


def test_a_hidden_value_is_warned_of():
    with pytest.warns(errors.HiddenValueWarning, match="pattern: "):
        found = torchjac.pattern(lambda x: x * float(x.sum()), X)
    assert np.array_equal(dense(found), np.eye(4))


def test_an_unknown_scope_is_refused():
    with pytest.raises(errors.ArgumentError, match="pattern: `scope` must be one of 'global'"):
        torchjac.pattern(torch.sin, X, scope="here")


def test_what_is_no_function_is_refused():
    with pytest.raises(errors.ArgumentTypeError, match="pattern: `func` must be callable"):
        torchjac.pattern(X, X)


def test_inside_a_transform_there_are_no_numbers():
    with pytest.raises(errors.LayoutError, match="pattern: sparse results cannot be computed"):
        torch.vmap(lambda x: torchjac.pattern(torch.sin, x).nnz)(X[None])
