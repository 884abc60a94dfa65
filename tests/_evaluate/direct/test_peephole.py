"""Programs made shorter without a change of their results."""

import torch

from torchjac._evaluate.direct.peephole import shortened, without_repetitions
from torchjac._linearize.program import Node, Ref, Value

aten = torch.ops.aten
DTYPE = torch.float64


def value(*shape, dtype=DTYPE) -> Value:
    return Value(shape, dtype)


def short(op, args, given, result, known=None) -> Node:
    """One operation on tensor 0, and 1 whose numbers are known; its result is tensor 2."""
    values = [given, value(*known.shape, dtype=known.dtype) if known is not None else given, result]
    constants = {} if known is None else {1: known}
    (node,) = shortened([Node(op, args, {}, (2,))], values, constants)
    return node


def test_products_with_one_are_aliases() -> None:
    node = short(aten.mul.Tensor, (Ref(0), Ref(1)), value(3), value(3), torch.ones(3).double())
    assert (node.op, node.args) == (aten.alias.default, (Ref(0),))


def test_sums_with_zero_are_aliases() -> None:
    node = short(aten.add.Tensor, (Ref(1), Ref(0)), value(3), value(3), torch.zeros(()).double())
    assert (node.op, node.args) == (aten.alias.default, (Ref(0),))


def test_a_product_with_one_that_broadcasts_expands() -> None:
    one = torch.ones(2, 1).double()
    node = short(aten.mul.Tensor, (Ref(0), Ref(1)), value(3), value(2, 3), one)
    assert (node.op, node.args) == (aten.expand.default, (Ref(0), [2, 3]))


def test_a_product_with_one_that_adds_axes_reshapes() -> None:
    one = torch.ones(1, 1).double()
    node = short(aten.mul.Tensor, (Ref(0), Ref(1)), value(3), value(1, 3), one)
    assert (node.op, node.args) == (aten.reshape.default, (Ref(0), [1, 3]))


def test_a_product_that_changes_the_dtype_stays() -> None:
    one = torch.ones(3).double()
    given = value(3, dtype=torch.float32)
    node = short(aten.mul.Tensor, (Ref(0), Ref(1)), given, value(3), one)
    assert node.op is aten.mul.Tensor


def test_a_product_with_other_numbers_stays() -> None:
    other = torch.tensor([1.0, 2.0, 1.0]).double()
    node = short(aten.mul.Tensor, (Ref(0), Ref(1)), value(3), value(3), other)
    assert node.op is aten.mul.Tensor


def test_a_first_power_is_an_alias() -> None:
    node = short(aten.pow.Tensor_Scalar, (Ref(0), 1.0), value(3), value(3))
    assert node.op is aten.alias.default


def test_a_permutation_that_moves_nothing_is_an_alias() -> None:
    node = short(aten.permute.default, (Ref(0), [0, 1]), value(2, 3), value(2, 3))
    assert node.op is aten.alias.default


def test_other_permutations_stay() -> None:
    node = short(aten.permute.default, (Ref(0), [1, 0]), value(2, 2), value(2, 2))
    assert node.op is aten.permute.default


def test_sums_with_a_factor_stay() -> None:
    node = Node(aten.add.Tensor, (Ref(0), Ref(1)), {"alpha": 2}, (2,))
    constants = {1: torch.zeros(3).double()}
    assert shortened([node], [value(3)] * 3, constants) == [node]


def test_what_was_computed_before_is_an_alias() -> None:
    nodes = [
        Node(aten.sin.default, (Ref(0),), {}, (1,)),
        Node(aten.sin.default, (Ref(0),), {}, (2,)),
        Node(aten.cos.default, (Ref(2),), {}, (3,)),
        Node(aten.cos.default, (Ref(1),), {}, (4,)),
    ]
    found = without_repetitions(nodes)
    assert [node.op for node in found] == [
        aten.sin.default,
        aten.alias.default,
        aten.cos.default,
        aten.alias.default,
    ]
    assert found[2].args == (Ref(1),)
    assert found[3].args == (Ref(3),)


def test_other_arguments_are_no_repetition() -> None:
    nodes = [Node(aten.select.int, (Ref(0), 0, k), {}, (k + 1,)) for k in range(2)]
    assert [node.op for node in without_repetitions(nodes)] == [aten.select.int] * 2


def test_several_results_are_computed_again() -> None:
    nodes = [Node(aten.unbind.int, (Ref(0),), {}, (2 * k + 1, 2 * k + 2)) for k in range(2)]
    assert [node.op for node in without_repetitions(nodes)] == [aten.unbind.int] * 2


def test_random_numbers_are_drawn_again() -> None:
    nodes = [Node(aten.rand_like.default, (Ref(0),), {}, (k + 1,)) for k in range(2)]
    assert [node.op for node in without_repetitions(nodes)] == [aten.rand_like.default] * 2


def test_numbers_of_other_types_or_signs_are_no_repetitions() -> None:
    numbers = [1, 1.0, True, 0.0, -0.0]
    nodes = [Node(aten.add.Scalar, (Ref(0), n), {}, (k,)) for k, n in enumerate(numbers, start=1)]
    assert [node.op for node in without_repetitions(nodes)] == [aten.add.Scalar] * 5


def test_arguments_by_name_tell_operations_apart() -> None:
    nodes = [
        Node(aten.add.Tensor, (Ref(0), Ref(1)), {"alpha": alpha}, (number,))
        for number, alpha in ((2, 2.0), (3, 3.0), (4, 2.0))
    ]
    ops = [aten.add.Tensor, aten.add.Tensor, aten.alias.default]
    assert [node.op for node in without_repetitions(nodes)] == ops
