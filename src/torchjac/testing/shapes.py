"""Patterns and colorings that many problems share, by arithmetic on indices."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchjac._pattern.pattern import SparsityPattern

FIVE_POINTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))


def band(n: int, lower: int, upper: int) -> SparsityPattern:
    """All entries (i, j) with -lower <= j - i <= upper, shape (n, n)."""
    rows = np.repeat(np.arange(n), lower + upper + 1)
    columns = rows + np.tile(np.arange(-lower, upper + 1), n)
    inside = (columns >= 0) & (columns < n)
    return SparsityPattern.from_coo((n, n), rows[inside], columns[inside])


def arrow(n: int, head: int) -> SparsityPattern:
    """The diagonal, and row and column `head`, shape (n, n)."""
    every, fixed = np.arange(n), np.full(n, head)
    return union((n, n), [(every, every), (every, fixed), (fixed, every)])


def full(m: int, n: int) -> SparsityPattern:
    """Every entry, shape (m, n)."""
    return SparsityPattern.from_dense(np.ones((m, n), dtype=bool))


def neighbours(
    n: int, offsets: Sequence[tuple[int, int]], periodic: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(cell, neighbour) for all cells of an n by n grid, numbered row by row."""
    i, j = np.divmod(np.arange(n * n), n)
    cells, others = [], []
    for down, right in offsets:
        row, column = i + down, j + right
        if periodic:
            row, column = row % n, column % n
        inside = (row >= 0) & (row < n) & (column >= 0) & (column < n)
        cells.append(np.flatnonzero(inside))
        others.append(row[inside] * n + column[inside])
    return np.concatenate(cells), np.concatenate(others)


def union(
    shape: tuple[int, int], places: Sequence[tuple[NDArray[Any], NDArray[Any]]]
) -> SparsityPattern:
    """All of several lists of (rows, columns)."""
    rows, columns = zip(*places, strict=True)
    return SparsityPattern.from_coo(shape, np.concatenate(rows), np.concatenate(columns))


def cyclic(n: int, count: int) -> Callable[[], NDArray[Any]]:
    """Coloring 0, 1, ..., count - 1, 0, 1, ... of n vertices."""
    return lambda: np.arange(n) % count
