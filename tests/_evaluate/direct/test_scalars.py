"""Numbers in place of constant tensors."""

import pytest
import torch

from torchjac._evaluate.direct.scalars import light, narrowed, with_numbers
from torchjac._linearize.program import Node, Ref, Value

aten = torch.ops.aten
KIND = Value((3,), torch.float64)
X, Y = Ref(0), Ref(1)


def folded(nodes, constants=None, values=None) -> list[Node]:
    return with_numbers(nodes, values or [KIND] * 9, constants or {})


def node(op, *args, out=2, **kwargs) -> Node:
    return Node(op, args, kwargs, (out,))


def full(number: float) -> torch.Tensor:
    return torch.full((3,), number, dtype=torch.float64)


def test_a_constant_tensor_becomes_a_number() -> None:
    (found,) = folded([node(aten.mul.Tensor, Y, X)], {1: full(2.5)})
    assert (found.op, found.args) == (aten.mul.Tensor, (X, 2.5))


def test_a_constant_that_changes_stays() -> None:
    given = node(aten.mul.Tensor, Y, X)
    assert folded([given], {1: torch.arange(3.0, dtype=torch.float64)}) == [given]


def test_factors_are_folded() -> None:
    last = folded(
        [
            node(aten.neg.default, X),
            node(aten.mul.Tensor, Ref(2), 3.0, out=3),
            node(aten.mul.Scalar, Ref(3), 0.5, out=4),
        ]
    )[-1]
    assert (last.op, last.args) == (aten.mul.Tensor, (X, -1.5))


def test_summands_are_folded() -> None:
    nodes = [node(aten.add.Tensor, X, Y), node(aten.sub.Tensor, Ref(2), Y, out=3)]
    last = folded(nodes, {1: full(7.0)})[-1]
    assert (last.op, last.args) == (aten.alias.default, (X,))


def test_factors_that_would_overflow_together_stay_apart() -> None:
    nodes = [node(aten.mul.Scalar, X, 1e200), node(aten.mul.Scalar, Ref(2), 1e200, out=3)]
    assert folded(nodes)[-1].args == (Ref(2), 1e200)


def test_a_multiple_is_added_at_once() -> None:
    nodes = [node(aten.mul.Scalar, Y, 2.0, out=3), node(aten.add.Tensor, Ref(3), X, out=4)]
    last = folded(nodes)[-1]
    assert (last.op, last.args, last.kwargs) == (aten.add.Tensor, (X, Y), {"alpha": 2.0})


def test_a_negative_is_subtracted() -> None:
    nodes = [node(aten.neg.default, Y, out=3), node(aten.add.Tensor, X, Ref(3), out=4)]
    last = folded(nodes)[-1]
    assert (last.op, last.args) == (aten.sub.Tensor, (X, Y))


def test_a_negative_plus_a_number_is_a_difference() -> None:
    nodes = [node(aten.neg.default, X, out=3), node(aten.add.Tensor, Ref(3), Y, out=4)]
    last = folded(nodes, {1: full(4.0)})[-1]
    assert (last.op, last.args) == (aten.rsub.Scalar, (X, 4.0))


@pytest.mark.parametrize(
    "other", [Value((1,), torch.float64), Value((3,), torch.float32)], ids=["shape", "dtype"]
)
def test_a_constant_that_decides_over_the_result_stays(other) -> None:
    values = [other, *[KIND] * 8]
    given = node(aten.mul.Tensor, X, Y)
    assert folded([given], {1: full(2.0)}, values) == [given]


def test_infinite_constants_stay() -> None:
    given = node(aten.add.Tensor, X, Y)
    assert folded([given], {1: full(float("inf"))}) == [given]


def test_a_constant_is_as_long_as_what_changes() -> None:
    tensor = torch.arange(3.0)[:, None].expand(3, 4).contiguous()
    assert narrowed(tensor).shape == (3, 1)


def test_what_repeats_is_kept_once_where_all_uses_are_elementwise() -> None:
    constants = {1: torch.ones(3, 4), 2: torch.ones(4, 3), 3: torch.ones(2)}
    nodes = [node(aten.mul.Tensor, X, Y, out=4), node(aten.mm.default, Ref(4), Ref(2), out=5)]
    found = light(constants, nodes, 5)
    assert sorted(found) == [1, 2]
    assert found[1].stride() == (0, 0)
    assert found[2].stride() == (3, 1)
