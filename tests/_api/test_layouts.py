"""Every layout, with nested inputs and outputs of two dtypes, equals the dense Jacobian."""

import pytest
import torch

import torchjac

LAYOUTS = [
    torch.strided,
    torch.sparse_coo,
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
    "blocks",
]
WEIGHTS = torch.linspace(-0.5, 0.8, 12, dtype=torch.float64).reshape(3, 4)


def samples(x, w):
    """Four samples of three numbers."""
    return torch.tanh(x @ w.to(x.dtype))


def one(x):
    return samples(x, WEIGHTS).square()


def pair(x, s):
    return samples(x, WEIGHTS) * s[:, None], s.sin()


def tree(inputs):
    x, s = inputs["x"], inputs["more"][0]
    return {"a": one(x), "b": [s**3, x[:, 0] * s]}


def full(x):
    return torch.softmax(x.flatten(), 0) * x.sum()


X = torch.linspace(-1.0, 1.5, 12, dtype=torch.float64).reshape(4, 3)
S = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)
CASES = {
    "one": (one, X),
    "pair": (pair, (X, S)),
    "tree": (tree, {"x": X, "more": [S]}),
    "not contiguous": (one, X.T.contiguous().T),
    "sample of one": (one, X[:1]),
}


def moved(inputs, dtype):
    """Other inputs of the same kind."""
    return torch.utils._pytree.tree_map(lambda t: (t * 0.7 + 0.2).to(dtype), inputs)


def leaves(result):
    return torch.utils._pytree.tree_leaves(result)


def assert_same(found, dense, layout):
    """That a result holds the numbers of a dense Jacobian with axes (*output, *input)."""
    if layout == "blocks":  # of samples, which lie in order
        found = torch.block_diag(*found)
    elif found.layout is not torch.strided:
        found = found.to_dense()
    torch.testing.assert_close(found, dense.reshape(found.shape))


def stored(result):
    """Numbers of a result that can be written to."""
    if result.layout is torch.strided:
        return result
    return result._values() if result.layout is torch.sparse_coo else result.values()


@pytest.mark.parametrize("backend", ["eager", "replay"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("func", "inputs"), CASES.values(), ids=CASES)
def test_nested_results_hold_the_dense_jacobian(func, inputs, layout, dtype, backend):
    plan = torchjac.plan(func, moved(inputs, dtype), layout=layout, backend=backend)
    x = moved(moved(inputs, dtype), dtype)
    found, dense = leaves(plan(x)), leaves(torchjac.jacobian(func, x))
    assert len(found) == len(dense)
    for f, d in zip(found, dense, strict=True):
        assert_same(f, d, layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("func", "inputs"), CASES.values(), ids=CASES)
def test_nested_results_are_filled_again(func, inputs, layout):
    plan = torchjac.plan(func, inputs, layout=layout)
    out = plan(inputs)
    x = moved(inputs, torch.float64)
    assert plan(x, out=out) is out
    dense = leaves(torchjac.jacobian(func, x))
    for f, d in zip(leaves(out), dense, strict=True):
        assert_same(f, d, layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_results_of_one_call_do_not_share_what_can_be_written(layout):
    plan = torchjac.plan(pair, (X, S), layout=layout)
    result = leaves(plan((X, S)))
    kept = [t.clone() for t in result]
    for t in result[1:]:
        stored(t).zero_()
    assert torch.equal(stored(result[0]), stored(kept[0]))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_flat_results_hold_the_dense_jacobian(layout):
    if layout == "blocks":
        func, x = one, X
    else:
        func, x = pair, (X, S)
    found = torchjac.plan(func, x, layout=layout, flat=True)(x)
    whole = torchjac.plan(func, x, flat=True)(x).to_dense()
    if layout == "blocks":
        found = torch.block_diag(*found)
    assert torch.equal(found if found.layout is torch.strided else found.to_dense(), whole)


@pytest.mark.parametrize("layout", LAYOUTS[:5], ids=str)
@pytest.mark.parametrize("order", [1, 2])
def test_full_matrices_in_every_layout(layout, order):
    func = full if order == 1 else lambda x: full(x).square().sum()
    x = X * 0.3
    found = torchjac.plan(func, X, layout=layout, order=order)(x)
    differentiate = torchjac.jacobian if order == 1 else torchjac.hessian
    assert_same(found, differentiate(func, x), layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_parameters_of_a_module_in_every_layout(layout):
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 4).double()
    call = lambda x: net(x).tanh()  # noqa: E731
    if layout == "blocks":
        found = torchjac.plan(net, X, wrt=net, layout=layout)(X)
        dense = torchjac.jacobian(net, X, wrt=net)
        # [out, batch, in]: each output feature has its own weights.
        expected = dense["weight"].diagonal(dim1=1, dim2=2).permute(2, 0, 1)
        torch.testing.assert_close(found["weight"], expected)
        torch.testing.assert_close(found["bias"], torch.ones(4, 4, 1, dtype=torch.float64))
    else:
        found = torchjac.plan(call, X, wrt=net, layout=layout)(X)
        dense = torchjac.jacobian(call, X, wrt=net)
        for name in dense:
            assert_same(found[name], dense[name], layout)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("shape", [(0,), (1,), (0, 3), (3, 0), (1, 1)])
def test_shapes_without_elements_and_of_one(layout, shape):
    x = torch.full(shape, 0.5, dtype=torch.float64)
    found = torchjac.plan(torch.sin, x, layout=layout)(x)
    dense = torchjac.jacobian(torch.sin, x)
    if layout == "blocks":
        assert torch.equal(found.flatten(), x.cos().flatten())
    else:
        assert_same(found, dense, layout)
