"""Passes as one program, where derivatives cannot be carried entry by entry."""

import pytest
import torch
from torch import nn
from torch.func import jacrev

import torchjac
from torchjac._evaluate.direct import emit
from torchjac.errors import FallbackWarning

STEPS, INTO, HIDDEN = 4, 3, 5


@pytest.fixture
def too_large(monkeypatch):
    """No program that carries derivatives may have so many operations; one of passes may."""

    def refuse(*_, **__):
        raise emit.TooManyDerivativesError("for this test")

    monkeypatch.setattr("torchjac._planner.programs.emit_bracket", refuse)


def dense(J):
    return J if J.layout is torch.strided else J.to_dense()


def recurrent(x):
    a = torch.arange(HIDDEN * INTO, dtype=x.dtype).view(HIDDEN, INTO).sin()
    b = torch.arange(HIDDEN * HIDDEN, dtype=x.dtype).view(HIDDEN, HIDDEN).cos()
    h = torch.zeros(HIDDEN, dtype=x.dtype)
    for step in x:
        h = torch.tanh(a @ step + b @ h)
    return h


def stencil(x):
    return x.roll(1) ** 2 * x - x.roll(-1).sin()


def several(x, y):
    return x * y.roll(1), (y**2).sum(), torch.ones(3, dtype=x.dtype)


def x_at(*shape, dtype=torch.float64):
    return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=dtype).view(shape) + 0.1


@pytest.mark.parametrize(
    ("backend", "strategy", "dtype"),
    [
        ("replay", "forward-mode", torch.float64),
        ("replay", "reverse-mode", torch.float64),
        ("replay", "reverse-mode", torch.float32),
        ("inductor", "reverse-mode", torch.float32),
    ],
)
@pytest.mark.parametrize(
    ("func", "shape"), [(stencil, (9,)), (recurrent, (STEPS, INTO)), (torch.sin, ())]
)
def test_products_with_seeds(too_large, func, shape, dtype, backend, strategy):
    x = x_at(*shape, dtype=dtype)
    plan = torchjac.plan(func, x, backend=backend, strategy=strategy)
    assert plan.method.endswith(backend)
    assert "too large: for this test" in str(plan)
    for point in (x, x.flip(0) * 2 if shape else x * 2):
        expected = jacrev(func)(point).reshape(plan.pattern.shape)
        torch.testing.assert_close(dense(plan(point)).reshape(plan.pattern.shape), expected)


@pytest.mark.filterwarnings("ignore::torchjac.errors.IndependenceWarning")
@pytest.mark.parametrize("strategy", ["forward-mode", "reverse-mode"])
def test_several_inputs_and_outputs_one_of_them_constant(too_large, strategy):
    given = x_at(3), x_at(3).flip(0) + 2
    plan = torchjac.plan(several, given, backend="replay", strategy=strategy, layout=torch.strided)
    other = given[0] * 3, given[1] - 1
    for row, rows in zip(plan(other), jacrev(several, (0, 1))(*other), strict=True):
        for block, right in zip(row, rows, strict=True):
            torch.testing.assert_close(block, right)


def test_a_hessian_by_a_symmetric_coloring(too_large):
    def energy(x):
        return (x[1:] ** 2 * x[:-1] ** 3).sum()

    x = x_at(7)
    plan = torchjac.plan(energy, x, order=2, backend="replay")
    torch.testing.assert_close(dense(plan(x * 2)), torch.func.hessian(energy)(x * 2))


def test_a_refill_and_gradients_through_it(too_large):
    x = x_at(6)
    plan = torchjac.plan(stencil, x, backend="replay", layout=torch.strided)
    out = plan(x)
    plan(x * 2, out=out)
    torch.testing.assert_close(out, jacrev(stencil)(x * 2))
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((plan(leaf, create_graph=True) ** 3).sum(), leaf)
    twin = x.clone().requires_grad_()
    (right,) = torch.autograd.grad((jacrev(stencil)(twin) ** 3).sum(), twin)
    torch.testing.assert_close(found, right)


def test_other_inputs_may_change(too_large):
    def driven(t, x):
        return torch.sin(t) * x.roll(1) ** 2

    t = torch.tensor(0.5, dtype=torch.float64)
    plan = torchjac.plan(driven, (t, x_at(5)), wrt=1, backend="replay")
    torch.testing.assert_close(dense(plan((t * 3, x_at(5)))), jacrev(driven, 1)(t * 3, x_at(5)))


def test_passes_in_chunks_stay_passes(too_large):
    with pytest.warns(FallbackWarning, match="not used"):
        plan = torchjac.plan(
            recurrent, x_at(STEPS, INTO), backend="replay", chunk_size=2, strategy="reverse-mode"
        )
    assert "not possible: passes from both sides, or in chunks" in str(plan)


def test_a_recurrent_network_has_a_program():
    torch.manual_seed(0)
    cell = nn.GRUCell(3, 4).double().requires_grad_(False)

    def unrolled(x):
        h = torch.zeros(4, dtype=x.dtype)
        for step in x:
            h = cell(step, h)
        return h

    x = x_at(24, 3)
    plan = torchjac.plan(unrolled, x, backend="replay", layout=torch.strided)
    assert plan.method == "rows by reverse mode, replay"
    torch.testing.assert_close(plan(x * 0.5), jacrev(unrolled)(x * 0.5))
