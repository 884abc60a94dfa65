"""Inputs that are not differentiated: they may change from call to call."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import hessian, jacrev

import torchjac
from torchjac.errors import BranchWarning, PlanMismatchError

N = 12


def y_at(n=N, dtype=torch.float64):
    return torch.linspace(0.2, 1.3, n, dtype=dtype)


def scalar(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype)


def forced(t, y):
    return torch.sin(t) * y.roll(1) ** 2 - t * y


def dense(J):
    return J if J.layout is torch.strided else J.to_dense()


@pytest.mark.parametrize("backend", ["eager", "replay", "inductor"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_time_goes_on(backend, dtype):
    plan = torchjac.plan(forced, (scalar(0.3, dtype), y_at(dtype=dtype)), wrt=1, backend=backend)
    for t in (0.3, 0.7, -2.0):
        given = scalar(t, dtype), y_at(dtype=dtype) + 0.1
        torch.testing.assert_close(dense(plan(given)), jacrev(forced, 1)(*given))


def calls_of(func):
    made = []

    def counted(*args):
        made.append(None)
        return func(*args)

    return counted, made


def test_a_program_needs_no_call_of_the_function():
    func, made = calls_of(forced)
    plan = torchjac.plan(func, (scalar(0.3), y_at()), wrt=1, backend="replay")
    made.clear()
    for t in (0.5, 0.6):
        plan((scalar(t), y_at()))
    assert not made
    assert "other inputs" in str(plan)


def test_a_plan_made_at_time_zero():
    plan = torchjac.plan(forced, (scalar(0.0), y_at()), wrt=1)
    assert plan.pattern.nnz == 2 * N
    given = scalar(0.9), y_at()
    torch.testing.assert_close(dense(plan(given)), jacrev(forced, 1)(*given))


def test_targets_with_zeros():
    def residual(x, target):
        return x**2 - target

    plan = torchjac.plan(residual, (y_at(), torch.zeros(N, dtype=torch.float64)), wrt=0)
    assert plan.pattern.nnz == N
    assert "other inputs" in str(plan)


def test_a_matrix_of_mostly_zeros_is_meant_to_be_one():
    def product(matrix, x):
        return matrix @ x**2

    matrix = torch.diag(y_at())
    plan = torchjac.plan(product, (matrix, y_at()), wrt=1)
    assert plan.pattern.nnz == N
    assert "other inputs" not in str(plan)
    full = torch.ones(N, N, dtype=torch.float64)
    with pytest.warns(BranchWarning):
        found = plan((full, y_at()))
    torch.testing.assert_close(dense(found), jacrev(product, 1)(full, y_at()))


def test_a_matrix_that_stays_keeps_its_program():
    def product(matrix, x):
        return matrix @ x**2

    given = torch.diag(y_at()), y_at()
    plan = torchjac.plan(product, given, wrt=1, backend="replay")
    assert plan._core.direct(given) is not None
    assert plan._core.direct((given[0] * 2, given[1])) is None


def test_zeros_by_chance_are_no_structure():
    def product(matrix, x):
        return matrix @ x**2

    matrix = torch.ones(N, N, dtype=torch.float64)
    matrix[2, 3] = 0
    plan = torchjac.plan(product, (matrix, y_at()), wrt=1)
    assert plan.pattern.nnz == N * N
    torch.testing.assert_close(dense(plan((matrix + 1, y_at()))), (matrix + 1) * 2 * y_at())


def reads_the_time(t, y):
    return y**2 * (1.0 if float(t) > 0.5 else y)


def computes_outside(t, y):
    return y**2 * torch.as_tensor(np.sin(t.detach().numpy()))


def asks_how_it_lies(matrix, y):
    return (matrix if matrix.is_contiguous() else 2 * matrix) @ y**2


@pytest.mark.filterwarnings("ignore::torchjac.errors.BranchWarning")
@pytest.mark.parametrize(
    ("func", "one", "other"),
    [
        (reads_the_time, scalar(0.3), scalar(0.7)),
        (computes_outside, scalar(0.3), scalar(0.7)),
        (asks_how_it_lies, torch.ones(N, N).double(), torch.ones(N, N).double().tril().t()),
        (lambda k, y: y**2 * k, torch.tensor(2), torch.tensor(3)),
        (lambda k, y: y[k] ** 2, torch.arange(N), torch.arange(N).flip(0)),
        (lambda m, y: torch.where(m, y**2, y), torch.arange(N) > 3, torch.arange(N) > 5),
    ],
)
def test_what_is_looked_at_or_counts(func, one, other):
    plan = torchjac.plan(func, (one, y_at()), wrt=1)
    assert "other inputs" not in str(plan)
    for given in (one, other, one):
        expected = torch.autograd.functional.jacobian(lambda y, g=given: func(g, y), y_at())
        torch.testing.assert_close(dense(plan((given, y_at()))), expected)


def test_a_sparse_matrix_beside():
    def product(matrix, x):
        return matrix @ x**2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, other = [torch.diag(y_at() * k).to_sparse_csr() for k in (1, 3)]
    plan = torchjac.plan(product, (one, y_at()), wrt=1)
    for matrix in (one, other):
        expected = torch.diag(2 * y_at() * matrix.values())
        torch.testing.assert_close(dense(plan((matrix, y_at()))), expected)


def test_a_hessian_by_one_of_several():
    def energy(a, x):
        return (a * x**2 * x.roll(1)).sum()

    plan = torchjac.plan(energy, (y_at(), y_at()), wrt=1, order=2, backend="replay")
    given = y_at().flip(0), y_at() * 0.5
    torch.testing.assert_close(dense(plan(given)), hessian(energy, 1)(*given))


def test_parameters_of_a_module_on_other_data():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    plan = torchjac.plan(net, y_at(3), wrt=net, layout=torch.strided, backend="replay")
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    found = plan(x)
    expected = jacrev(lambda p: torch.func.functional_call(net, p, (x,)))(
        dict(net.named_parameters())
    )
    for name, block in expected.items():
        torch.testing.assert_close(found[name], block.detach())


def test_paths_of_nested_inputs():
    def func(state):
        return state["y"] ** 2 * state["more"][0] + state["more"][1]

    def given(a, b):
        return {"y": y_at(), "more": [scalar(a), y_at() * b]}

    plan = torchjac.plan(func, given(1.0, 2.0), wrt="y", backend="replay")
    found = plan(given(3.0, 5.0))
    torch.testing.assert_close(dense(found), torch.diag(6 * y_at()))


def test_several_by_several():
    def func(a, t, b):
        return a * b.roll(1) * t, b**2 + t

    def given(t):
        return y_at(), scalar(t), y_at().flip(0)

    plan = torchjac.plan(func, given(2.0), wrt=[2, 0], backend="replay", layout=torch.strided)
    expected = jacrev(func, (2, 0))(*given(-1.5))
    for row, rows in zip(plan(given(-1.5)), expected, strict=True):
        for block, right in zip(row, rows, strict=True):
            torch.testing.assert_close(block, right)


def test_one_tensor_in_both_places():
    def func(x, y):
        return x**2 * y

    x = y_at()
    plan = torchjac.plan(func, (x, x), wrt=0, backend="replay")
    for given in ((x, x), (x, x * 2), (x * 3, x)):
        torch.testing.assert_close(dense(plan(given)), jacrev(func)(*given))


def test_a_refill_takes_the_new_time():
    plan = torchjac.plan(forced, (scalar(0.3), y_at()), wrt=1, backend="replay")
    out = plan((scalar(0.3), y_at()))
    again = plan((scalar(1.3), y_at()), out=out)
    assert again is out
    torch.testing.assert_close(dense(out), jacrev(forced, 1)(scalar(1.3), y_at()))


def test_what_depends_on_the_time_alone_is_not_constant():
    def linear(t, y):
        return t * y

    plan = torchjac.plan(linear, (scalar(0.3), y_at()), wrt=1)
    out = plan((scalar(0.3), y_at()))
    for t in (0.5, 2.5):
        torch.testing.assert_close(dense(plan((scalar(t), y_at()))), t * torch.eye(N).double())
        plan((scalar(t), y_at()), out=out)
        torch.testing.assert_close(dense(out), t * torch.eye(N).double())


def test_memory_of_another_order():
    def func(weight, x):
        return torch.tanh(weight @ x)

    weight = torch.arange(6.0).double().view(2, 3).sin()
    plan = torchjac.plan(func, (weight, y_at(3)), wrt=1, backend="replay")
    other = torch.arange(6.0).double().view(3, 2).cos().t()
    torch.testing.assert_close(dense(plan((other, y_at(3)))), jacrev(func, 1)(other, y_at(3)))


def test_gradients_through_the_result_reach_both():
    plan = torchjac.plan(forced, (scalar(0.3), y_at()), wrt=1, layout=torch.strided)
    t, y = scalar(0.8).requires_grad_(), y_at().requires_grad_()
    found = torch.autograd.grad((plan((t, y), create_graph=True) ** 3).sum(), (t, y))
    t2, y2 = scalar(0.8).requires_grad_(), y_at().requires_grad_()
    right = torch.autograd.grad((jacrev(forced, 1)(t2, y2) ** 3).sum(), (t2, y2))
    torch.testing.assert_close(found, right)


def test_gradients_by_what_is_differentiated_at_another_time():
    plan = torchjac.plan(forced, (scalar(0.3), y_at()), wrt=1, layout=torch.strided)
    y = y_at().requires_grad_()
    (found,) = torch.autograd.grad((plan((scalar(0.8), y), create_graph=True) ** 3).sum(), y)
    y2 = y_at().requires_grad_()
    (right,) = torch.autograd.grad((jacrev(forced, 1)(scalar(0.8), y2) ** 3).sum(), y2)
    torch.testing.assert_close(found, right)


def test_the_value_is_that_of_the_call():
    plan = torchjac.plan(forced, (scalar(0.3), y_at()), wrt=1, backend="replay")
    value, J = plan.value_and_jacobian((scalar(0.8), y_at()))
    torch.testing.assert_close(value, forced(scalar(0.8), y_at()))
    torch.testing.assert_close(dense(J), jacrev(forced, 1)(scalar(0.8), y_at()))


def test_inputs_beside_of_another_shape_are_refused():
    plan = torchjac.plan(forced, (scalar(0.3), y_at()), wrt=1)
    with pytest.raises(PlanMismatchError, match="input 0"):
        plan((y_at(), y_at()))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_plan_that_was_pickled():
    plan = torchjac.plan(forced, (scalar(0.3), y_at()), wrt=1, backend="replay")
    again = pickle.loads(pickle.dumps(plan))
    given = scalar(0.8), y_at()
    torch.testing.assert_close(dense(again(given)), jacrev(forced, 1)(*given))


def test_a_batch_of_blocks_on_other_conditions():
    def func(x, conditions):
        return torch.tanh(x @ torch.ones(3, 2, dtype=x.dtype)) * conditions

    x = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
    plan = torchjac.plan(
        func, (x, torch.ones(5, 1).double()), wrt=0, layout="blocks", backend="replay"
    )
    conditions = torch.arange(5.0).double()[:, None]
    expected = torch.stack([jacrev(func)(x[k], conditions[k]) for k in range(5)])
    torch.testing.assert_close(plan((x, conditions)), expected)


def test_inputs_that_the_function_writes_to():
    def func(scratch, x):
        scratch.mul_(2)
        return scratch * x**2

    plan = torchjac.plan(func, (y_at(), y_at()), wrt=1, backend="replay")
    scratch = y_at() * 3
    torch.testing.assert_close(dense(plan((scratch, y_at()))), torch.diag(12 * y_at() ** 2))
    torch.testing.assert_close(scratch, y_at() * 3)


@pytest.mark.parametrize("backend", ["eager", "replay"])
@pytest.mark.parametrize("wrt", [(1, 0), (2, 0), (2, 1, 0), (1, 2, 0), (1,), (0, 2)], ids=str)
def test_inputs_are_taken_in_the_order_of_wrt(wrt, backend):
    def func(x, y, z):
        return x**2 * y + z.sin() * x

    def at(shift):
        return tuple([y_at() + k + shift for k in range(3)])

    plan = torchjac.plan(func, at(0.0), wrt=wrt, backend=backend, layout=torch.strided)
    for shift in (0.0, 0.5, 1.0):  # from the second call on in a shorter way
        expected = jacrev(func, wrt)(*at(shift))
        torch.testing.assert_close(plan(at(shift)), expected)


def test_one_tensor_given_twice_is_two_inputs():
    def func(x, y):
        return x**2 * y

    here = y_at()
    for wrt in (0, 1, (1, 0)):
        plan = torchjac.plan(func, (here, here), wrt=wrt, backend="replay", layout=torch.strided)
        for given in ((here, here), (here, 2 * here), (3 * here, here)):
            torch.testing.assert_close(plan(given), jacrev(func, wrt)(*given))
