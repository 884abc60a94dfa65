"""By-products of operations, in a form that can be differentiated."""

from unittest import mock

import pytest
import torch
from torch import nn

from torchjac._evaluate.direct import byproducts
from torchjac._evaluate.direct.byproducts import restored
from torchjac._inputs.signature import bind
from torchjac._linearize.linearize import linearize

aten = torch.ops.aten
MATRIX = torch.tensor([[1.0, 2.0, 0.5], [-1.0, 0.3, 1.5], [2.0, 1.0, -1.0]]).double()


def rules_of(func, x):
    """Each operation with its rule, its arguments and results."""
    program, _ = linearize(bind("plan_laplacian", func, x))
    return {node.op: rule for node, rule in restored(program, x).items()}


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if other.numel():
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("is_affine", [True, False])
@pytest.mark.parametrize("shape", [(4,), (3, 4)])
def test_layer_norm(is_affine, shape):
    x = torch.linspace(-1, 2, 24).double().reshape(2, 3, 4).sin()
    norm = nn.LayerNorm(shape, elementwise_affine=is_affine).double().requires_grad_(False)
    (rule,) = rules_of(norm, x).values()
    args = x, shape, norm.weight, norm.bias, norm.eps
    assert_same(rule(args, ()), aten.native_layer_norm.default(*args))


def test_batch_norm_by_its_own_mean():
    x = torch.linspace(-1, 2, 24).double().reshape(4, 3, 2).sin()
    (rule,) = rules_of(nn.BatchNorm1d(3, track_running_stats=False).double(), x).values()
    ones = torch.ones(3).double()
    args = x, 2 * ones, ones, None, None, True, 0.1, 1e-5
    assert_same(rule(args, ()), aten.native_batch_norm.default(*args))


@pytest.mark.parametrize("x", [MATRIX, MATRIX.mT], ids=["by rows", "by columns"])
@pytest.mark.parametrize(
    ("op", "func"),
    [
        (aten._linalg_det.default, torch.det),
        (aten._linalg_slogdet.default, lambda x: torch.linalg.slogdet(x)[1]),
        (aten._linalg_solve_ex.default, lambda x: torch.linalg.solve(x, x[0])),
    ],
)
def test_factors_lie_as_those_that_were_used(op, func, x):
    rule = rules_of(func, x)[op]
    args = (x, x[0]) if op is aten._linalg_solve_ex.default else (x,)
    results = op(*args)
    grown = x.clone(memory_format=torch.preserve_format).requires_grad_()
    found = rule((grown, *args[1:]), results)
    assert_same(found, results)
    assert any([part.requires_grad for part in found])


def test_a_rule_that_gives_something_else_is_not_taken():
    wrong = {aten.native_layer_norm.default: (lambda args, results: results[::-1],)}
    with mock.patch.object(byproducts, "_RULES", wrong):
        assert rules_of(nn.LayerNorm(3).double().requires_grad_(False), MATRIX) == {}


def test_nothing_where_there_are_none():
    assert rules_of(torch.sin, MATRIX) == {}
