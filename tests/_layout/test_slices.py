"""Index arrays that are views: found, and read as the arrays themselves would be."""

import numpy as np
import pytest
import torch

from torchjac._layout.slices import Slices, as_slices

GRID = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
VALUES = torch.arange(120.0)


@pytest.mark.parametrize(
    "index",
    [
        GRID,
        GRID.transpose(3, 1, 0, 2),
        GRID.transpose(1, 0, 2, 3),
        GRID[:, 1:, :, 2:4],
        GRID[1:, :, ::2, ::3],
        GRID[:, :1, :, 4],
        GRID[1, 2, 3, 4:],
    ],
    ids=["whole", "permuted", "two axes changed", "part", "with steps", "narrow", "one"],
)
def test_a_view_is_found_and_read(index):
    slices = as_slices(index.reshape(-1))
    assert slices is not None
    assert torch.equal(slices.view(VALUES).reshape(index.shape), VALUES[index])


@pytest.mark.parametrize(
    "index",
    [
        [],
        [0, 1, 3],
        [3, 2, 1, 0],
        [0, 0, 0],
        [0, 1, 2, 4, 5, 7],
        [0, 2, 1, 3, 4, 5],
        [0, 1, 5, 6, 7],
    ],
    ids=["empty", "gap", "falling", "repeated", "uneven", "one pair changed", "uneven runs"],
)
def test_other_positions_are_no_view(index):
    assert as_slices(np.array(index, dtype=np.int64)) is None


def test_a_shuffle_of_bits_is_no_view():
    assert as_slices(np.arange(1024).reshape((2,) * 10).T.reshape(-1)) is None


def test_random_positions_are_a_view_only_if_they_read_the_same():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(2000):
        index = np.cumsum(random.integers(1, 3, size=random.integers(1, 7)))
        slices = as_slices(index)
        if slices is not None:
            found += 1
            assert slices.view(VALUES).reshape(-1).tolist() == index.tolist()
    assert found > 100


@pytest.mark.parametrize(
    ("slices", "identity"),
    [
        (Slices((6,), (1,), 0), True),
        (Slices((), (), 0), True),
        (Slices((6,), (1,), 1), False),
        (Slices((6,), (2,), 0), False),
        (Slices((2, 3), (1, 2), 0), False),
    ],
)
def test_positions_in_order_are_told_apart(slices, identity):
    assert slices.is_identity is identity


def test_positions_count_from_the_first_value_of_a_part():
    part = VALUES[10:]
    assert Slices((2, 2), (4, 1), 3).view(part).tolist() == [[13.0, 14.0], [17.0, 18.0]]
