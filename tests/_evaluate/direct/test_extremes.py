"""Least and greatest labels against the maps applied to one element after the other."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from torchjac._evaluate.direct.extremes import Extremes, extremes, greatest, united
from torchjac._linearize.program import Ref
from torchjac._local.algebra import (
    Contract,
    Convolve,
    Deposit,
    Matrix,
    Mix,
    Move,
    Opaque,
    Reduce,
    Scale,
    Scan,
)

MASK = torch.tensor([[True, False, True], [False, True, True]])
ROWS, COLUMNS = torch.tensor([0, 0, 3, 1]), torch.tensor([2, 0, 1, 1])


def read(tensor: Tensor) -> Tensor:
    return tensor[[2, 0, 2]]


def deposited(tensor: Tensor) -> Tensor:
    return torch.zeros(4, *tensor.shape[1:]).index_add(0, torch.tensor([2, 0, 2]), tensor)


def scattered(tensor: Tensor, dim: int | None) -> Tensor:
    if dim is None:
        flat = torch.zeros(4).index_add(0, ROWS, tensor.flatten()[COLUMNS])
        return flat.reshape(2, 2)
    wide = torch.zeros(tensor.shape[0], 4).index_add(1, ROWS, tensor[:, COLUMNS])
    return wide


# Each map, the shape of its argument, and what it does, with ones for weights.
CASES = {
    "scale": (Scale((2, 3), MASK), (1, 3), lambda t: t.expand(2, 3) * MASK),
    "scale by anything": (Scale((2, 3)), (3,), lambda t: t.expand(2, 3)),
    "move": (Move(lambda t: t.roll(1, 0)), (4, 2), lambda t: t.roll(1, 0)),
    "deposit": (Deposit(read, (4, 2)), (3, 2), deposited),
    "reduce": (Reduce((0, 2)), (2, 3, 2), lambda t: t.sum((0, 2))),
    "reduce and keep": (Reduce((1,), keepdim=True), (2, 3), lambda t: t.sum(1, keepdim=True)),
    "mix": (Mix((1,), (2, 4)), (2, 3), lambda t: t.sum(1, keepdim=True).expand(2, 4)),
    "scan": (Scan(1), (2, 4), lambda t: t.cumsum(1)),
    "scan back": (Scan(0, reverse=True), (3, 2), lambda t: t.flip(0).cumsum(0).flip(0)),
    "contract": (
        Contract("kj,ik->ij", Ref(0), (2, 3)),
        (3, 4),
        lambda t: torch.einsum("kj,ik->ij", t, torch.ones(2, 3)),
    ),
    "contract a vector": (
        Contract("i,j->ij", Ref(0), (2,)),
        (3,),
        lambda t: torch.einsum("i,j->ij", t, torch.ones(2)),
    ),
    "convolve": (
        Convolve((2, 1, 2), None, (2,), (1,), (2,), False, 2, (1, 2, 3)),
        (1, 2, 5),
        lambda t: F.conv1d(t, torch.ones(2, 1, 2), None, 2, 1, 2, 2),
    ),
    "convolve back": (
        Convolve((2, 1, 3), None, (2,), (1,), (1,), True, 1, (1, 1, 5)),
        (1, 2, 3),
        lambda t: F.conv_transpose1d(t, torch.ones(2, 1, 3), None, 2, 1),
    ),
    "matrix": (Matrix(ROWS, COLUMNS, (2, 4), 1), (2, 3), lambda t: scattered(t, 1)),
    "flat matrix": (Matrix(ROWS, COLUMNS, (2, 2)), (3, 1), lambda t: scattered(t, None)),
    "opaque": (
        Opaque((2, 5), 1),
        (2, 3),
        lambda t: t.sum(1, keepdim=True).expand(2, 5),
    ),
}


def by_hand(labels, apply) -> Extremes:
    """One label after the other through the map itself."""
    low = high = None
    for label in np.unique(labels[labels > 0]):
        reached = apply(torch.from_numpy((labels == label).astype(np.float32))).numpy() != 0
        marked = np.where(reached, label, 0)
        low = marked if low is None else np.where(low == 0, marked, low)
        high = marked if high is None else np.maximum(high, marked)
    return Extremes(low, high)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("most", [2, 99])
def test_extremes_are_those_of_the_map(name, most) -> None:
    linear_map, shape, apply = CASES[name]
    labels = np.random.default_rng(0).integers(0, most, shape).astype(np.int32)
    labels.flat[0] = 1
    found, expected = extremes(labels, [linear_map]), by_hand(labels, apply)
    assert np.array_equal(found.low, expected.low)
    assert np.array_equal(found.high, expected.high)
    assert found.low.dtype == found.high.dtype == np.int32


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [1, 3])
def test_the_greatest_labels_of_slices_are_those_of_each(name, count) -> None:
    linear_map, shape, apply = CASES[name]
    slices = np.random.default_rng(1).integers(0, 9, (count, *shape)).astype(np.int32)
    slices.reshape(count, -1)[:, 0] = 1
    given = slices.copy()
    found = greatest(slices, [linear_map])
    assert np.array_equal(found, [by_hand(labels, apply).high for labels in slices])
    assert found.dtype == np.int32
    assert np.array_equal(slices, given)


PADDED = Move(lambda t: torch.nn.functional.pad(t, (1, 0)))


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([], [[[1, 5], [3, 0]], [[0, 2], [4, 6]]]),
        ([PADDED], [[[0, 1, 5], [0, 3, 0]], [[0, 0, 2], [0, 4, 6]]]),
        ([PADDED, Reduce((0,)), Scale((2, 3))], [[[0, 3, 5]] * 2, [[0, 4, 6]] * 2]),
        ([Reduce(()), Move(lambda t: t[:0])], np.zeros((2, 0, 2))),
        ([Move(lambda t: t[:, :0]), Reduce((1,))], np.zeros((2, 2))),
    ],
)
def test_chains_of_many_slices(maps, expected) -> None:
    slices = np.array([[[1, 5], [3, 0]], [[0, 2], [4, 6]]], np.int32)
    assert np.array_equal(greatest(slices, maps), expected)


def test_slices_that_repeat_numbers_in_memory_are_moved_as_others_are() -> None:
    slices = np.broadcast_to(np.array([[[1, 2, 3]], [[4, 0, 6]]], np.int32), (2, 2, 3))
    found = greatest(slices, [Move(lambda t: t.flip(1).transpose(0, 1))])
    assert found.tolist() == [[[3, 3], [2, 2], [1, 1]], [[6, 6], [0, 0], [4, 4]]]


def test_a_chain_is_read_from_first_to_last() -> None:
    maps = [Move(lambda t: t.flip(0)), Reduce((0,), keepdim=True), Scale((2, 2))]
    found = extremes(np.array([[1, 5], [3, 0]], np.int32), maps)
    assert found.low.tolist() == [[1, 5], [1, 5]]
    assert found.high.tolist() == [[3, 5], [3, 5]]


def test_the_span_is_the_largest_distance() -> None:
    assert Extremes(np.array([0, 2, 3]), np.array([0, 2, 7])).span == 4


def test_united_extremes_leave_out_what_none_reaches() -> None:
    one = Extremes(np.array([0, 2, 0], np.int32), np.array([0, 4, 0], np.int32))
    other = Extremes(np.array([3, 5, 0], np.int32), np.array([3, 9, 0], np.int32))
    both = united([one, other])
    assert both.low.tolist() == [3, 2, 0]
    assert both.high.tolist() == [3, 9, 0]
