"""Axes that never mix, and the blocks along the diagonal that they make."""

import numpy as np
import pytest

from torchjac._pattern.pattern import SparsityPattern
from torchjac._pattern.separable import DiagonalBlocks, find_blocks, separable_axes


def mask_of(output, inputs, pairs):
    """All entries whose indices agree along the pairs, by comparing every row with every column."""
    mask = np.ones((int(np.prod(output)), int(np.prod(inputs))), dtype=bool)
    of_row = np.indices(output).reshape(len(output), -1)
    of_column = np.indices(inputs).reshape(len(inputs), -1)
    for a, b in pairs:
        mask &= of_row[a][:, None] == of_column[b]
    return mask


CASES = {
    "batch": ((3, 2), (3, 4), ((0, 0),), (3, 2, 4)),
    "batch and tokens": ((3, 5, 2), (3, 5, 4), ((0, 0), (1, 1)), (15, 2, 4)),
    "tokens, not the first axis": ((2, 5), (4, 5), ((1, 1),), (5, 2, 4)),
    "axes that change places": ((5, 2), (4, 5), ((0, 1),), (5, 2, 4)),
    "transposed": ((2, 3), (3, 2), ((0, 1), (1, 0)), (6, 1, 1)),
    "elementwise": ((2, 3), (2, 3), ((0, 0), (1, 1)), (6, 1, 1)),
    "elementwise vector": ((5,), (5,), ((0, 0),), (5, 1, 1)),
    "equal lengths": ((4, 4), (4, 4), ((1, 1),), (4, 4, 4)),
    "the middle": ((2, 3, 2), (3, 2), ((1, 0),), (3, 4, 2)),
}


@pytest.mark.parametrize(("output", "inputs", "pairs", "shape"), CASES.values(), ids=CASES)
def test_axes_that_agree_are_found(output, inputs, pairs, shape):
    pattern = SparsityPattern.from_dense(mask_of(output, inputs, pairs))
    assert tuple(separable_axes(pattern, output, inputs)) == pairs
    blocks = find_blocks(pattern, output, inputs)
    assert (blocks.pairs, blocks.shape) == (pairs, shape)


@pytest.mark.parametrize(("output", "inputs", "pairs", "shape"), CASES.values(), ids=CASES)
def test_numbered_anew_the_matrix_is_block_diagonal(output, inputs, pairs, shape):
    mask = mask_of(output, inputs, pairs)
    blocks = DiagonalBlocks(output, inputs, pairs)
    ordered = np.zeros_like(mask)
    ordered[blocks.row_numbers[:, None], blocks.column_numbers] = mask
    assert np.array_equal(ordered, np.kron(np.eye(shape[0]), np.ones(shape[1:])).astype(bool))
    assert blocks.is_in_order == np.array_equal(ordered, mask)


def test_one_entry_outside_is_seen_wherever_it_is():
    mask = mask_of((40, 3), (40, 4), ((0, 0),))
    for row, column in [(0, 159), (119, 0), (60, 76)]:
        wrong = mask.copy()
        wrong[row, column] = True
        assert separable_axes(SparsityPattern.from_dense(wrong), (40, 3), (40, 4)) == []


def test_an_entry_outside_is_seen_beyond_the_first_rows():
    mask = mask_of((200, 8), (200, 8), ((0, 0),))  # 12,800 entries
    mask[-1, 0] = True
    assert separable_axes(SparsityPattern.from_dense(mask), (200, 8), (200, 8)) == []


@pytest.mark.parametrize(
    ("mask", "output", "inputs", "shape"),
    [
        (np.kron(np.eye(3), np.ones((2, 4))), (6,), (12,), (3, 2, 4)),
        (np.kron(np.eye(3), np.ones((2, 4))), (6,), (3, 4), (3, 2, 4)),
        (np.kron(np.eye(3), [[1, 0], [1, 1]]), (6,), (6,), (3, 2, 2)),
        (np.ones((2, 4)), (1, 2), (1, 4), (1, 2, 4)),
        (np.ones((1, 1)), (), (), (1, 1, 1)),
        (np.ones((1, 1)), (1,), (1,), (1, 1, 1)),
    ],
    ids=["vectors", "vector of samples", "not full", "batch of one", "scalars", "ones"],
)
def test_blocks_along_the_diagonal_need_no_axes(mask, output, inputs, shape):
    assert find_blocks(SparsityPattern.from_dense(mask), output, inputs).shape == shape


@pytest.mark.parametrize(
    ("output", "inputs", "shape"),
    [
        ((3, 2), (3, 4), (3, 2, 4)),
        ((3, 4), (3, 4), (3, 4, 4)),
        ((3,), (4,), (1, 3, 4)),
        ((), (4,), (1, 1, 4)),
        ((0, 2), (0, 3), (0, 2, 3)),
        ((0,), (3,), (1, 0, 3)),
        ((5, 0), (5, 2), (5, 0, 2)),
    ],
)
def test_without_entries_the_first_axes_are_paired(output, inputs, shape):
    size = int(np.prod(output)), int(np.prod(inputs))
    pattern = SparsityPattern.from_dense(np.zeros(size))
    assert find_blocks(pattern, output, inputs).shape == shape


@pytest.mark.parametrize(
    ("mask", "output", "inputs"),
    [
        (np.ones((3, 3)), (3,), (3,)),
        (np.ones((1, 4)), (), (4,)),
        (np.eye(6) + np.eye(6, k=1), (6,), (6,)),
        (np.eye(6) + np.eye(6, k=1), (2, 3), (3, 2)),
    ],
    ids=["full", "gradient", "band", "band of other shapes"],
)
def test_where_all_mixes_there_are_no_blocks(mask, output, inputs):
    assert find_blocks(SparsityPattern.from_dense(mask), output, inputs) is None
