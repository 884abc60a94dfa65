"""Jacobians kept as factors."""

import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.func import jacrev

import torchjac
from torchjac.errors import ArgumentError, BranchWarning, PlanMismatchError


def squeeze(*widths, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(n, m, generator=generator, dtype=torch.float64).to(dtype) / m**0.5
        for m, n in pairwise(widths)
    ]

    def func(x):
        for weight in weights:
            x = (weight @ x).tanh()
        return x

    return func, torch.linspace(-1, 1, widths[0], dtype=dtype)


def dense(func, x):
    return jacrev(func)(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("widths", [(60, 3, 60), (60, 20, 4, 50), (5, 60, 60), (60, 2, 40, 2, 60)])
def test_the_product_of_the_factors_is_the_jacobian(widths, dtype):
    func, x = squeeze(*widths, dtype=dtype)
    plan = torchjac.plan(func, x, keep_factors=True)
    for point in (x, x.flip(0) * 0.3 + 0.1):
        J = plan(point, check=True)
        assert J.dtype == dtype
        torch.testing.assert_close(J.to_dense(), dense(func, point))


def test_a_waist_gives_thin_factors():
    func, x = squeeze(200, 3, 200)
    plan = torchjac.plan(func, x, keep_factors=True)
    assert [p.shape for p in plan.factors] == [(200, 3), (3, 200)]
    J, v = plan(x), torch.linspace(0, 1, 200, dtype=torch.float64)
    torch.testing.assert_close(J @ v, torch.func.jvp(func, (x,), (v,))[1])
    torch.testing.assert_close(J.T @ v, torch.func.vjp(func, x)[1](v)[0])


def test_a_jacobian_that_no_memory_would_hold():
    ones = torch.ones(3, 200_000, dtype=torch.float64) / 200_000

    def func(x):
        return ones.T @ (ones @ x).sin()

    x = torch.linspace(0, 1, 200_000, dtype=torch.float64)
    J = torchjac.plan(func, x, keep_factors=True)(x)
    assert J.shape == (200_000, 200_000)
    assert sum(factor.numel() for factor in J.factors) < 2_000_000
    torch.testing.assert_close(J @ x, torch.func.jvp(func, (x,), (x,))[1])


def test_several_inputs_and_outputs_are_raveled():
    def func(a, b):
        return {"s": a.sum() * b, "p": (a * b.mean()).reshape(2, 2)}

    a, b = torch.arange(4.0).double(), torch.arange(1.0, 4.0).double()
    J = torchjac.plan(func, (a, b), keep_factors=True)((a, b)).to_dense()
    expected = torchjac.jacobian(func, (a, b), layout=torch.sparse_csr)
    rows = [torch.cat([block.to_dense() for block in expected[name]], 1) for name in ("s", "p")]
    torch.testing.assert_close(J, torch.cat(rows))


def test_parameters_of_a_module():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 6)).double()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    J = torchjac.plan(net, x, wrt=net, keep_factors=True)(x).to_dense()
    blocks = torchjac.jacobian(net, x, wrt=net)
    torch.testing.assert_close(J, torch.cat([b.reshape(6, -1) for b in blocks.values()], 1))


def test_nothing_narrow_is_one_factor():
    plan = torchjac.plan(lambda x: x.roll(1) * x, torch.ones(9), keep_factors=True)
    assert plan.method == "1 factor, replay"
    assert plan.pattern.nnz == 18
    assert plan(torch.ones(9)).to_dense().sum() == 18


def test_weights_that_changed_are_noticed():
    weight = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(2, 30)

    def func(x):
        return weight.T.exp() @ (weight**2 @ x).tanh()

    x = torch.linspace(-1, 1, 30, dtype=torch.float64)
    plan = torchjac.plan(func, x, keep_factors=True)
    weight.mul_(2)
    with pytest.warns(BranchWarning, match="factors were found anew"):
        J = plan(x)
    torch.testing.assert_close(J.to_dense(), dense(func, x))
    torch.testing.assert_close(plan(x / 2).to_dense(), dense(func, x / 2))


def test_a_plan_that_was_pickled_trusts_nothing():
    net = nn.Sequential(nn.Linear(30, 3), nn.Tanh(), nn.Linear(3, 20)).double()
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    plan = pickle.loads(pickle.dumps(torchjac.plan(net, x, keep_factors=True)))
    torch.testing.assert_close(plan(x).to_dense(), dense(net, x))
    # It has a module of its own, which became another one unseen.
    plan._call.func[0].weight.data.mul_(2)
    net[0].weight.data.mul_(2)
    with pytest.warns(BranchWarning, match="factors were found anew"):
        J = plan(x)
    torch.testing.assert_close(J.to_dense(), dense(net, x))


def test_a_branch_that_was_not_taken_is_noticed():
    weight = torch.ones(2, 30, dtype=torch.float64)

    def func(x):
        inner = weight @ x
        return weight.T @ (inner**2 if x.sum() > 0 else inner.sin())

    x = torch.linspace(0, 1, 30, dtype=torch.float64)
    plan = torchjac.plan(func, x, keep_factors=True)
    with pytest.warns(BranchWarning):
        found = plan(-x)
    torch.testing.assert_close(found.to_dense(), dense(lambda x: weight.T @ (weight @ x).sin(), -x))


def test_the_value_comes_too():
    func, x = squeeze(20, 2, 10)
    value, J = torchjac.plan(func, x, keep_factors=True).value_and_jacobian(x)
    torch.testing.assert_close(value, func(x))
    torch.testing.assert_close(J.to_dense(), dense(func, x))


def test_what_it_says_of_itself(tmp_path):
    func, x = squeeze(20, 2, 10)
    plan = torchjac.plan(func, x, keep_factors=True)
    assert repr(plan) == "FactoredPlan(10 × 20, method='2 factors, replay')"
    text = str(plan)
    assert "through 20-2-10" in text
    assert "factor        2 × 20, 40 entries" in text
    assert plan._repr_html_().startswith("<pre>FactoredPlan")
    assert plan.candidates == ()
    assert plan.coloring is None
    assert plan.pattern.nnz == 200
    with pytest.raises(ArgumentError, match="cannot be saved"):
        plan.save(tmp_path / "plan.npz")


def test_inputs_of_another_size_are_refused():
    func, x = squeeze(20, 2, 10)
    plan = torchjac.plan(func, x, keep_factors=True)
    with pytest.raises(PlanMismatchError):
        plan(x[:5])


def test_wrong_factors_are_found(monkeypatch):
    func, x = squeeze(20, 2, 10)
    plan = torchjac.plan(func, x, keep_factors=True)
    right = type(plan._factors).entries

    def wrong(factors, leaves):
        (first, places), *others = right(factors, leaves)
        return [(first * 1.01, places), *others]

    monkeypatch.setattr(type(plan._factors), "entries", wrong)
    with pytest.raises(torchjac.errors.PatternError, match="is not the Jacobian"):
        plan(x, check=True)


@pytest.mark.parametrize("func", [torch.sign, lambda x: 0 * x])
def test_a_jacobian_of_zeros_is_one_factor(func):
    plan = torchjac.plan(func, torch.linspace(0.1, 1, 4), keep_factors=True)
    assert len(plan.factors) == 1
    assert not plan(torch.linspace(1, 2, 4)).to_dense().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_inside_is_allowed_for(dtype):
    weights = torch.linspace(-1, 1, 80).reshape(4, 20)

    def func(x):
        inner = torch.tanh((weights @ x).to(dtype)).to(torch.float32)
        return weights.T @ inner

    plan = torchjac.plan(func, torch.linspace(-1, 1, 20), keep_factors=True)
    x = torch.linspace(0, 1, 20)
    torch.testing.assert_close(plan(x).to_dense(), jacrev(func)(x), rtol=0.05, atol=0.05)


def test_derivatives_that_cancel_are_allowed_for():
    func = lambda x: torch.softmax(x, 0).sum()[None] * torch.ones(3, dtype=x.dtype)  # noqa: E731
    plan = torchjac.plan(func, torch.linspace(0, 1, 5, dtype=torch.float64), keep_factors=True)
    x = torch.linspace(1, 3, 5, dtype=torch.float64)
    assert plan(x).to_dense().abs().max() < 1e-14
