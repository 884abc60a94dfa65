"""`layout=` of jacobian, value_and_jacobian and hessian: sparse results in one shot."""

import pytest
import torch
from torch import nn

import torchjac
from torchjac.errors import IndependenceWarning, LayoutError, MemoryBudgetError, StrictError
from torchjac.testing import scenario

SPARSE = [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr]
STRATEGIES = ["auto", "forward-mode", "reverse-mode"]
X = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64)


def chain(x):
    return torch.cat([x[:1].sin(), x[1:] * x[:-1]])


def energy(x):
    return (chain(x) ** 2).sum()


def assert_same(result, expected):
    torch.testing.assert_close(result.to_dense(), expected.reshape(result.shape))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layout", SPARSE)
def test_jacobians(layout, strategy):
    result = torchjac.jacobian(chain, X, layout=layout, strategy=strategy)
    assert result.layout is layout
    assert_same(result, torchjac.jacobian(chain, X))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layout", SPARSE)
def test_hessians(layout, strategy):
    result = torchjac.hessian(energy, X, layout=layout, outer_jacobian_strategy=strategy)
    assert result.layout is layout
    assert_same(result, torchjac.hessian(energy, X))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_dtype_is_that_of_the_input(dtype):
    result = torchjac.jacobian(chain, X.to(dtype), layout=torch.sparse_csr)
    assert result.dtype is dtype
    assert_same(result, torchjac.jacobian(chain, X.to(dtype)))


def test_inputs_and_outputs_of_any_shape_are_flattened():
    x = X.view(3, 4)
    func = lambda x: x.roll(1, 0) * x  # noqa: E731
    result = torchjac.jacobian(func, x, layout=torch.sparse_csr)
    assert result.shape == (12, 12)
    assert_same(result, torchjac.jacobian(func, x))


def test_the_value_and_aux_come_along():
    value, result, aux = torchjac.value_and_jacobian(
        lambda x: (chain(x), x.sum()), X, layout=torch.sparse_csr, has_aux=True
    )
    assert torch.equal(value, chain(X))
    assert_same(result, torchjac.jacobian(chain, X))
    assert torch.equal(aux, X.sum())
    assert not value.requires_grad


def test_aux_of_a_hessian():
    result, aux = torchjac.hessian(
        lambda x: (energy(x), x.sum()), X, layout=torch.sparse_csr, has_aux=True
    )
    assert_same(result, torchjac.hessian(energy, X))
    assert torch.equal(aux, X.sum())


def test_blocks_of_several_inputs_and_outputs():
    func = lambda a, b: {"s": a * b[:3], "t": b.sum() * a}  # noqa: E731
    inputs = (X[:3], X[:5])
    result = torchjac.jacobian(func, inputs, layout=torch.sparse_csr)
    expected = torchjac.jacobian(func, inputs)
    for name, row in expected.items():
        for ours, theirs in zip(result[name], row, strict=True):
            assert_same(ours, theirs)


def test_parameters_of_a_module():
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double()
    x = X.view(4, 3)
    result = torchjac.jacobian(net, x, wrt=net, layout=torch.sparse_csr)
    for name, block in torchjac.jacobian(net, x, wrt=net).items():
        assert_same(result[name], block)


@pytest.mark.parametrize("layout", SPARSE)
def test_jacobians_can_be_differentiated(layout):
    x = X.clone().requires_grad_()
    result = torchjac.jacobian(chain, x, create_graph=True, layout=layout)
    (ours,) = torch.autograd.grad(result.to_dense().pow(2).sum(), x)
    expected = torchjac.jacobian(chain, x, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.pow(2).sum(), x)[0])


def test_hessians_can_be_differentiated():
    x = X.clone().requires_grad_()
    result = torchjac.hessian(energy, x, create_graph=True, layout=torch.sparse_csr)
    (ours,) = torch.autograd.grad(result.to_dense().pow(2).sum(), x)
    expected = torchjac.hessian(energy, x, create_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.pow(2).sum(), x)[0])


def test_results_carry_no_graph_unless_asked():
    assert not torchjac.jacobian(
        chain, X.clone().requires_grad_(), layout=torch.sparse_csr
    ).requires_grad


def test_what_was_done_is_recorded():
    with torchjac.record() as runs:
        torchjac.jacobian(chain, X, layout=torch.sparse_csr, strategy="forward-mode", chunk_size=1)
    (run,) = runs
    assert (run.api, run.mode, run.method) == ("jacobian", "forward-mode", "compressed, vmap")
    assert (run.seeds, run.passes, run.chunk_size) == (2, 2, 1)


def test_a_large_result_takes_the_memory_of_its_entries():
    problem = scenario("allen_cahn", 20_000)
    result = torchjac.jacobian(problem.function, problem.x(), layout=torch.sparse_csr)
    assert result.values().numel() == problem.pattern.nnz
    v = torch.randn(20_000, dtype=torch.float64)
    torch.testing.assert_close(result @ v, torchjac.jvp(problem.function, problem.x(), v)[1])


def test_strict_refuses_outputs_that_do_not_depend_on_the_inputs():
    with pytest.raises(StrictError, match="Output 1"):
        torchjac.jacobian(lambda x: (x, X), X.clone(), strict=True, layout=torch.sparse_csr)


def test_outputs_without_derivative_are_warned_of():
    with pytest.warns(IndependenceWarning, match="jacobian: output 0"):
        result = torchjac.jacobian(lambda x: x.detach(), X, layout=torch.sparse_csr)
    assert result.values().numel() == 0


def test_a_result_beyond_the_budget_is_refused():
    with pytest.raises(MemoryBudgetError, match="jacobian: the Jacobian needs"):
        torchjac.jacobian(chain, X, layout=torch.sparse_csr, memory=100)


def test_sparse_results_are_refused_inside_transforms():
    with pytest.raises(LayoutError, match="inside vmap, grad, vjp or jvp"):
        torch.vmap(lambda x: torchjac.jacobian(chain, x, layout=torch.sparse_csr))(X.view(2, 6))


def test_holomorphic_functions_are_refused():
    with pytest.raises(LayoutError, match="is for real functions"):
        torchjac.jacobian(
            torch.square, X.to(torch.complex128), holomorphic=True, layout=torch.sparse_csr
        )
