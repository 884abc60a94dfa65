"""Tiles of a pattern: counted and numbered as by hand, and their default sizes."""

import numpy as np
import pytest

from torchjac._layout.tiles import choose_blocksize, count_tiles, tiled
from torchjac._pattern.pattern import SparsityPattern
from torchjac.testing import scenario

SIZES = [(1, 1), (2, 2), (3, 2), (1, 4), (6, 8), (2, 8), (6, 1)]


def random_mask(seed, density):
    return np.random.default_rng(seed).random((6, 8)) < density


def cut_by_hand(mask, size):
    """Tiles [row of tiles, column of tiles, height, width]."""
    (m, n), (height, width) = mask.shape, size
    return mask.reshape(m // height, height, n // width, width).swapaxes(1, 2)


def block_diagonal(count, height, width):
    return SparsityPattern.from_dense(np.kron(np.eye(count), np.ones((height, width))))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.4, 1.0])
def test_occupied_tiles_are_counted(density, size):
    mask = random_mask(1, density)
    occupied = cut_by_hand(mask, size).any(axis=(2, 3))
    pattern = SparsityPattern.from_dense(mask)
    assert count_tiles(pattern, size) == occupied.sum()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.4, 1.0])
def test_every_entry_has_its_place(density, size):
    mask = random_mask(2, density)
    numbers = np.full(mask.shape, -1)
    numbers[mask] = np.arange(mask.sum())
    tiles = tiled(SparsityPattern.from_dense(mask), size)
    by_hand = cut_by_hand(numbers, size)
    found = tiles.entries.reshape(-1, *size)
    rows = np.repeat(np.arange(len(tiles.indptr) - 1), np.diff(tiles.indptr))
    assert len(found) == (by_hand >= 0).any(axis=(2, 3)).sum()
    assert all(
        np.array_equal(by_hand[row, column], tile)
        for row, column, tile in zip(rows, tiles.columns, found, strict=True)
    )


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        (block_diagonal(32, 64, 64), (64, 64)),
        (block_diagonal(32, 10, 64), (10, 64)),
        (block_diagonal(7, 3, 2), (3, 2)),
        (SparsityPattern.from_dense(np.ones((12, 12))), (12, 12)),
        (SparsityPattern.from_dense(np.eye(12)), (1, 1)),
        (SparsityPattern.from_dense(np.zeros((4, 4))), (1, 1)),
        (SparsityPattern.from_dense(np.zeros((0, 4))), (1, 1)),
        (SparsityPattern.from_dense(np.tri(12) - np.tri(12, k=-2)), (1, 1)),
        (scenario("brusselator", 8).pattern, (2, 2)),
    ],
    ids=["tokens", "batch", "small", "full", "diagonal", "empty", "no rows", "band", "brusselator"],
)
def test_the_default_size_is_that_of_the_blocks(pattern, size):
    assert choose_blocksize(pattern) == size


def test_channels_of_a_pixel_are_one_tile():
    channels = np.ones((3, 3))
    stencil = np.eye(10) + np.eye(10, k=1) + np.eye(10, k=-1)
    assert choose_blocksize(SparsityPattern.from_dense(np.kron(stencil, channels))) == (3, 3)


def test_tiles_do_not_hold_more_zeros_than_entries():
    for seed in range(20):
        pattern = SparsityPattern.from_dense(random_mask(seed, 0.3))
        height, width = choose_blocksize(pattern)
        assert pattern.nnz <= count_tiles(pattern, (height, width)) * height * width
        assert count_tiles(pattern, (height, width)) * height * width <= 2 * pattern.nnz
