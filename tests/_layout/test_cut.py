"""Blocks of a pattern: hand-written cuts, and cuts of random patterns put together again."""

import numpy as np
import pytest

from torchjac._layout.cut import cut
from torchjac._pattern.pattern import SparsityPattern


def test_one_block_is_the_whole():
    whole = SparsityPattern.from_dense([[1, 0], [1, 1]])
    ((piece,),) = cut(whole, [2], [2])
    assert piece.pattern is whole
    assert piece.positions is None


def test_blocks_know_where_their_entries_came_from():
    whole = SparsityPattern.from_dense([[1, 0, 1], [0, 1, 1], [1, 1, 1]])
    pieces = cut(whole, [1, 2], [2, 1])
    assert [[p.positions.tolist() for p in row] for row in pieces] == [
        [[0], [1]],
        [[2, 4, 5], [3, 6]],
    ]
    assert pieces[1][0].pattern == SparsityPattern.from_dense([[0, 1], [1, 1]])


def test_empty_outputs_and_inputs_have_empty_blocks():
    whole = SparsityPattern.from_dense([[1, 1]])
    pieces = cut(whole, [0, 1], [1, 0, 1])
    assert [[p.pattern.shape for p in row] for row in pieces] == [
        [(0, 1), (0, 0), (0, 1)],
        [(1, 1), (1, 0), (1, 1)],
    ]
    assert [p.pattern.nnz for p in pieces[1]] == [1, 0, 1]


@pytest.mark.parametrize("seed", range(5))
def test_blocks_of_a_random_pattern_make_the_whole(seed):
    rng = np.random.default_rng(seed)
    dense = rng.random((9, 11)) < 0.3
    heights, widths = [2, 4, 3], [1, 5, 5]
    pieces = cut(SparsityPattern.from_dense(dense), heights, widths)
    expected = [np.split(rows, [1, 6], axis=1) for rows in np.split(dense, [2, 6])]
    for row, blocks in zip(pieces, expected, strict=True):
        for piece, block in zip(row, blocks, strict=True):
            assert piece.pattern == SparsityPattern.from_dense(block)
    places = np.concatenate([p.positions for row in pieces for p in row])
    assert np.array_equal(np.sort(places), np.arange(dense.sum()))


def test_random_patterns_are_cut_as_matrices_are():
    random = np.random.default_rng(0)
    for _ in range(30):
        heights, widths = random.integers(0, 5, 3), random.integers(0, 5, 4)
        mask = random.random((heights.sum(), widths.sum())) < 0.5
        numbers = np.full(mask.shape, -1)
        numbers[mask] = np.arange(mask.sum())
        pieces = cut(SparsityPattern.from_dense(mask), heights, widths)
        for row, slab in zip(pieces, np.split(numbers, np.cumsum(heights)[:-1]), strict=True):
            by_hand = np.split(slab, np.cumsum(widths)[:-1], axis=1)
            for piece, part in zip(row, by_hand, strict=True):
                assert piece.pattern == SparsityPattern.from_dense(part >= 0)
                assert piece.positions.tolist() == part[part >= 0].tolist()
