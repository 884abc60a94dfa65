"""Slices of several tensors side by side."""

import numpy as np
import torch

from torchjac._evaluate.direct.blocks import Block
from torchjac._evaluate.direct.join import joined


def block(*rows: list[int]) -> Block:
    index = np.array(rows, np.int32)
    return Block(index, torch.from_numpy(index).double())


def never(tensor) -> bool:
    return False


def test_slices_meet_in_the_order_of_their_inputs() -> None:
    a, b = block([2, 3], [1, 2]), block([5, 6], [4, 5])
    rows = joined({0: [a], 1: [b]}, never)
    found = [{n: part.index.tolist() for n, part in row.items()} for row in rows]
    assert found == [{0: [[1, 2]], 1: [[4, 5]]}, {0: [[2, 3]], 1: [[5, 6]]}]


def test_the_longer_one_goes_on_alone() -> None:
    rows = joined({0: [block([1, 2])], 1: [block([1, 2]), block([2, 3])]}, never)
    assert [sorted(row) for row in rows] == [[0, 1], [1]]


def test_constants_meet_constants() -> None:
    one, other = block([1, 2]), block([1, 2])
    rows = joined({0: [one], 1: [other]}, lambda values: values is one.values)
    assert [list(row) for row in rows] == [[0], [1]]


def test_empty_slices_are_left_out() -> None:
    rows = joined({0: [block([0, 0], [1, 2])]}, never)
    assert [row[0].index.tolist() for row in rows] == [[[1, 2]]]


def test_large_blocks_stay_whole_and_meet_those_as_large() -> None:
    large, other = block(*[[k, k] for k in range(1, 41)]), block(*[[k, 0] for k in range(1, 41)])
    rows = joined({0: [large], 1: [other], 2: [block([1, 1])]}, never)
    assert [{n: part.slices for n, part in row.items()} for row in rows] == [{0: 40, 1: 40}, {2: 1}]


def test_blocks_with_none_to_meet_stay_whole() -> None:
    alone, large = block(*[[k, k] for k in range(1, 11)]), block(*[[k, 0] for k in range(1, 41)])
    rows = joined({0: [alone], 1: [large]}, never)
    assert [{n: part.slices for n, part in row.items()} for row in rows] == [{0: 10}, {1: 40}]
