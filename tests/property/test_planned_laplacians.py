"""Random small programs: their planned Laplacians against reverse mode over reverse mode."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import torchjac
from tests.property.test_random_functions import programs

pytestmark = pytest.mark.filterwarnings(
    "ignore:There is a performance drop", "ignore::torchjac.errors.FallbackWarning"
)


def by_reverse_mode(func, x):
    """The trace of each Hessian, a row at a time."""
    leaf = x.detach().clone().requires_grad_()
    traces = []
    for element in func(leaf).reshape(-1):
        gradient = derivative(element, leaf).reshape(-1)
        rows = [derivative(g, leaf).reshape(-1)[i] for i, g in enumerate(gradient)]
        traces.append(torch.stack(rows).sum())
    return torch.stack(traces).reshape(func(x).shape).detach()


def derivative(y, x):
    if not y.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(
        y, x, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


@given(program=programs(max_inputs=1), factor=st.sampled_from([1.0, -0.5, 1.25]))
def test_the_planned_laplacian_is_the_trace_of_the_hessian(program, factor):
    (x,) = program.inputs
    for func in (program.scalar, lambda x: program.flat(x)[0]):
        plan = torchjac.plan_laplacian(func, x, backend="replay")
        found, expected = plan(factor * x), by_reverse_mode(func, factor * x)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
