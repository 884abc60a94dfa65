"""One operation on slices of its tangents."""

import numpy as np
import pytest
import torch
from torch import Tensor

from torchjac._evaluate.direct.blocks import Block
from torchjac._evaluate.direct.operate import Operation
from torchjac._linearize.program import LinearProgram, Node, Ref, Value
from torchjac._local.call import Call

aten = torch.ops.aten


def operation(op, args, tangents: dict[int, Value], values: dict[int, Tensor], position=0):
    known = {n: Value(tuple(t.shape), t.dtype, t.stride()) for n, t in values.items()}
    last = max([*tangents, *values])
    kinds = tuple([{**tangents, **known}[n] for n in range(last + 1)])
    node = Node(op, args, {}, (last + 1,))
    linear = frozenset(tangents)
    program = LinearProgram((node,), kinds, (), tuple(tangents), (), {}, {}, linear, "jvp")
    return Operation(Call(node, program), position, values)


def kind(*shape, dtype=torch.float64) -> Value:
    return Value(shape, dtype, tuple(torch.empty(shape).stride()))


def slices(values: Tensor) -> Block:
    return Block(np.ones(values.shape, np.int32), values)


def randn(*shape) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_tangents_that_are_not_given_are_zero() -> None:
    add = operation(aten.add.Tensor, (Ref(0), Ref(1)), {0: kind(2), 1: kind(2)}, {})
    assert add.on({1: torch.ones(2).double()}).tolist() == [1, 1]


def test_coefficients_are_taken_from_the_values() -> None:
    mul = operation(aten.mul.Tensor, (Ref(0), Ref(1)), {0: kind(2)}, {1: torch.tensor([2.0, 3.0])})
    found = mul.on_slices({0: slices(torch.tensor([[1.0, 1.0], [0.0, 5.0]]))})
    assert found.tolist() == [[2, 3], [0, 15]]


def test_one_of_several_results() -> None:
    args = (Ref(0), [1, 2])
    split = operation(aten.split_with_sizes.default, args, {0: kind(3)}, {}, position=1)
    assert split.on_slices({0: slices(torch.tensor([[1.0, 2.0, 3.0]]))}).tolist() == [[2, 3]]


def test_slices_of_several_tangents_go_together() -> None:
    cat = operation(aten.cat.default, ([Ref(0), Ref(1)],), {0: kind(1), 1: kind(1)}, {})
    found = cat.on_slices({0: slices(torch.ones(2, 1)), 1: slices(torch.zeros(2, 1))})
    assert found.tolist() == [[1, 0], [1, 0]]


def test_an_operation_without_a_batching_rule_runs_one_by_one() -> None:
    mask = torch.tensor([True, False, True])
    args = (Ref(1), Ref(2), Ref(0))
    values = {1: torch.zeros(3).double(), 2: mask}
    scatter = operation(aten.masked_scatter.default, args, {0: kind(3)}, values)
    given = randn(2, 3)
    found = scatter.on_slices({0: slices(given)})
    assert torch.equal(found, torch.stack([given[:, 0], torch.zeros(2), given[:, 1]], 1).double())


def test_the_wrong_batching_rule_of_distances_is_not_used() -> None:
    x, y, grads = randn(4, 3), randn(6, 3) + 1, randn(5, 4, 6)
    values = {1: x, 2: y, 3: torch.cdist(x, y)}
    args = (Ref(0), Ref(1), Ref(2), 2.0, Ref(3))
    backward = operation(aten._cdist_backward.default, args, {0: kind(4, 6)}, values)
    expected = torch.stack([aten._cdist_backward(g.clone(), x, y, 2.0, values[3]) for g in grads])
    torch.testing.assert_close(backward.on_slices({0: slices(grads)}), expected)


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
def test_a_sparse_coefficient(layout) -> None:
    matrix = randn(3, 3).tril()
    sparse = {1: matrix.to_sparse(layout=layout)}
    kinds = {0: kind(3, 2)}
    node = Node(aten.mm.default, (Ref(1), Ref(0)), {}, (2,))
    values = (kinds[0], Value((3, 3), torch.float64))
    program = LinearProgram((node,), values, (), (0,), (), {}, {}, frozenset({0}), "jvp")
    given = randn(4, 3, 2)
    found = Operation(Call(node, program), 0, sparse).on_slices({0: slices(given)})
    torch.testing.assert_close(found, matrix @ given)


@pytest.mark.parametrize(
    ("op", "args", "expected"),
    [
        (aten.neg.default, (Ref(0),), True),
        (aten.abs.default, (Ref(0),), False),
        (aten.exp.default, (Ref(0),), False),
        (aten.relu.default, (Ref(0),), False),
        (aten.gt.Scalar, (Ref(0), 0), False),
        (aten.mul.Tensor, (Ref(0), Ref(0)), False),
        (aten.mul.Tensor, (Ref(0), Ref(1)), True),
        (aten.add.Tensor, (Ref(0), Ref(1)), False),
        (aten.lerp.Scalar, (Ref(0), Ref(0), 0.5), True),
    ],
)
def test_whether_an_operation_is_linear(op, args, expected) -> None:
    tried = operation(op, args, {0: kind(4)}, {1: randn(4)})
    assert tried.is_linear() == expected


def test_an_operation_on_integers_is_not_linear() -> None:
    assert not operation(
        aten.neg.default, (Ref(0),), {0: kind(2, dtype=torch.int64)}, {}
    ).is_linear()
