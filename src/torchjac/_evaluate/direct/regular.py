"""Gathers that are permutations of axes."""

from typing import NamedTuple

import numpy as np

from torchjac._evaluate.direct.blocks import IntArray


class Turn(NamedTuple):
    """A permutation of elements as one of axes.

    Attributes:
        shape: Of the elements before.
        order: Of its axes after.
    """

    shape: list[int]
    order: list[int]


def turn_of(index: IntArray) -> Turn | None:
    """The axes that a gather of all elements of a vector permutes.

    Args:
        index: Place of each element before, integers, shape (n,).

    Returns:
        The permutation; None if it is none of axes, or does not take each element once.

    >>> turn_of(np.array([0, 3, 1, 4, 2, 5]))
    Turn(shape=[2, 3], order=[1, 0])
    >>> turn_of(np.array([0, 1, 1])) is None
    True
    """
    loops: list[tuple[int, int]] = []
    left = index.astype(np.int64)
    while len(left) > 1:
        step = int(left[1] - left[0])
        ends = np.flatnonzero(np.diff(left) != step)
        length = int(ends[0]) + 1 if len(ends) else len(left)
        if len(left) % length or length < 2:
            return None
        rows = left.reshape(-1, length)
        if (rows != rows[:, :1] + step * np.arange(length)).any():
            return None
        loops.insert(0, (step, length))
        left = rows[:, 0]
    order = sorted(range(len(loops)), key=lambda k: -loops[k][0])
    shape = [loops[k][1] for k in order]
    steps = [int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape))]
    if [loops[k][0] for k in order] != steps or (len(left) and left[0] != 0):
        return None
    return Turn(shape, [order.index(k) for k in range(len(loops))])
