"""Gathers that permute axes are told from others."""

import numpy as np
import pytest

from torchjac._evaluate.direct.regular import turn_of


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((2, 3), (1, 0)),
        ((2, 3, 4), (0, 2, 1)),
        ((4, 2, 3), (2, 0, 1)),
        ((2, 2, 2, 2), (3, 1, 2, 0)),
    ],
)
def test_permuted_axes(shape, order):
    index = np.arange(np.prod(shape)).reshape(shape).transpose(order).ravel()
    turn = turn_of(index)
    assert turn is not None
    again = np.arange(len(index)).reshape(turn.shape).transpose(turn.order).ravel()
    assert np.array_equal(again, index)


@pytest.mark.parametrize(
    "index",
    [[0, 1, 1], [1, 2, 0], [1, 0], [0, 2, 4], [3, 2, 1, 0], [0, 0, 0], [1], [0, 2, 1, 4, 3, 5]],
)
def test_others(index):
    assert turn_of(np.array(index)) is None


def test_nothing_moves():
    assert turn_of(np.arange(6)) == ([6], [0])


def test_one_element():
    assert turn_of(np.array([0])) == ([], [])
